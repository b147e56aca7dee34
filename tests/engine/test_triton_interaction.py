"""The fused Triton kernel's numbers, by Triton's interpreter: numpy on the CPU, no device."""

import sys
from typing import Any

import numpy as np
import pytest
import torch

from narsil_graph.engine.triton_interaction import TritonInteraction, TritonUnavailable
from narsil_graph.model.spec import ModelSpec, RowFormat
from tests.engine.tiny import FP16, FP32, INT4, INT8, SHAPES, Shape, tiny_model
from tests.engine.triton_cases import (
    INT32_MAX,
    KERNEL_MODULE,
    ONE_FORMAT,
    assert_close,
    flat,
    fresh_kernel_module,
    fused,
    one_id_bags,
    padded_rows,
    random_bags,
    random_bottom,
)

SHAPED = pytest.mark.parametrize("shape", list(ONE_FORMAT.values()), ids=list(ONE_FORMAT))


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel runs on the CPU, operator by operator in numpy; other copies of its module stay compiled."""
    pytest.importorskip("triton")
    from triton.runtime import interpreter  # pyright: ignore[reportMissingImports]

    make_dot = interpreter.InterpreterBuilder.create_dot
    patch_tensor = interpreter._patch_lang_tensor  # pyright: ignore[reportPrivateUsage]

    def float32_of(handle: Any) -> Any:
        # The interpreter holds bfloat16 as uint16 and would multiply the bit patterns.
        if handle.dtype.name != "bf16":
            return handle
        wide = (handle.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(wide, interpreter.tl.float32)

    def create_dot(self: Any, one: Any, other: Any, *rest: Any) -> Any:
        return make_dot(self, float32_of(one), float32_of(other), *rest)

    def patch_tensor_index(tensor: Any, scope: Any) -> None:
        # The interpreter's own range() bound is int() of an array of one value, which numpy 2.4 refuses.
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_tensor_index)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, KERNEL_MODULE, fresh_kernel_module())


@SHAPED
@pytest.mark.usefixtures("interpreted")
def test_bags_give_what_plain_loops_give(shape: Shape) -> None:
    model = tiny_model(shape)
    bags = random_bags(model, rows=3, longest=3)
    bottom = random_bottom(model, len(bags))
    assert_close(fused(model)(bottom, *flat(bags)), model, bottom, bags)


@SHAPED
@pytest.mark.usefixtures("interpreted")
def test_one_id_a_feature_gives_what_plain_loops_give(shape: Shape) -> None:
    model = tiny_model(shape)
    bags = one_id_bags(model, rows=4)
    bottom = random_bottom(model, len(bags))
    assert_close(fused(model)(bottom, flat(bags)[0], None), model, bottom, bags)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("row_format", [INT8, INT4, FP16, FP32])
@pytest.mark.usefixtures("interpreted")
def test_half_precision_gives_what_plain_loops_give(row_format: RowFormat, dtype: torch.dtype) -> None:
    model = tiny_model(Shape(dim=12, formats=(row_format,)))
    bags = random_bags(model, rows=3, longest=2)
    bottom = random_bottom(model, len(bags), dtype)
    assert_close(fused(model, dtype)(bottom, *flat(bags)), model, bottom, bags)


@pytest.mark.parametrize(
    ("dtype", "dot"), [(torch.float32, 2.0**-12), (torch.float16, 0.0), (torch.bfloat16, 0.0)], ids=str
)
@pytest.mark.usefixtures("interpreted")
def test_vectors_are_rounded_to_the_compute_dtype_before_the_dots(dtype: torch.dtype, dot: float) -> None:
    spec = Shape(table_rows=(1,), dim=4, formats=(FP32,)).spec()
    rows = torch.tensor([1 + 2.0**-12, 1, 0, 0]).view(torch.uint8)
    begins = torch.zeros(1, dtype=torch.int64)
    interaction = TritonInteraction(spec=spec, rows=rows, begins=begins, row_bytes=16, dtype=dtype)
    top = interaction(torch.tensor([[1, -1, 0, 0]], dtype=dtype), torch.zeros(1, dtype=torch.int32), None)
    assert top.tolist() == [[1, -1, 0, 0, dot]]


@pytest.mark.usefixtures("interpreted")
def test_empty_bags_are_zero_vectors() -> None:
    model = tiny_model(SHAPES["mixed poolings"])
    bottom = random_bottom(model, 2)
    top = fused(model)(bottom, *flat([[[], [], []], [[], [], []]]))
    assert torch.equal(top[:, : model.spec.dim], bottom)
    assert not top[:, model.spec.dim :].any()


@pytest.mark.parametrize("poison", [INT32_MAX, -1, -(2**31)])
@pytest.mark.usefixtures("interpreted")
def test_poisoned_ids_of_padding_rows_reach_no_other_row(poison: int) -> None:
    model = tiny_model()
    bottom = random_bottom(model, 4)
    ids = flat(one_id_bags(model, rows=4))[0][:12]
    poisoned = torch.cat([ids[:6], torch.full((6,), poison, dtype=torch.int32)])
    clean, dirty = fused(model)(bottom, ids, None), fused(model)(bottom, poisoned, None)
    assert torch.equal(clean[:2], dirty[:2])
    assert dirty.isfinite().all()


@pytest.mark.usefixtures("interpreted")
def test_rows_rewritten_in_place_change_the_next_call() -> None:
    model = tiny_model()
    rows, begins, row_bytes = padded_rows(model)
    interaction = TritonInteraction(spec=model.spec, rows=rows, begins=begins, row_bytes=row_bytes, dtype=torch.float32)
    bottom, ids = random_bottom(model, 2), flat(one_id_bags(model, rows=2))[0]
    before = interaction(bottom, ids, None)
    rows.zero_()
    after = interaction(bottom, ids, None)
    assert before[:, model.spec.dim :].all()
    assert not after[:, model.spec.dim :].any()


def test_mixed_row_formats_are_refused() -> None:
    with pytest.raises(TritonUnavailable, match="the model has fp32, int4: use fbgemm"):
        any_model_of(SHAPES["mixed formats"].spec())


def any_model_of(spec: ModelSpec, row_bytes: int = 16) -> TritonInteraction:
    begins = torch.zeros(len(spec.sparse_features), dtype=torch.int64)
    rows = torch.zeros(64, dtype=torch.uint8)
    return TritonInteraction(spec=spec, rows=rows, begins=begins, row_bytes=row_bytes, dtype=torch.float32)


def test_absent_triton_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(TritonUnavailable, match="pip install triton"):
        any_model_of(SHAPES["4 vectors"].spec())


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton can launch here")
def test_compiled_kernel_is_refused_where_no_device_is() -> None:
    pytest.importorskip("triton")
    with pytest.raises(TritonUnavailable, match="Triton cannot launch kernels here"):
        any_model_of(SHAPES["4 vectors"].spec())


@pytest.mark.parametrize("row_bytes", [12, 20, 0])
def test_rows_that_are_not_padded_to_16_bytes_are_a_bug_of_the_caller(row_bytes: int) -> None:
    with pytest.raises(ValueError, match="not padded"):
        any_model_of(SHAPES["4 vectors"].spec(), row_bytes)

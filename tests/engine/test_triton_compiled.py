"""The fused Triton kernel's machine code, by Triton's compiler, for GPUs that are not there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from narsil_graph.engine import triton_interaction
from narsil_graph.engine.triton_interaction import KERNEL_NAME
from narsil_graph.model.spec import RowFormat
from tests.engine.tiny import FP16, FP32, INT4, INT8, Shape, tiny_model
from tests.engine.triton_cases import flat, fresh_kernel_module, fused, one_id_bags, random_bottom

POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


class Compiler:
    """Stands for the kernel: launching it compiles what would be launched."""

    def __init__(self, capability: int) -> None:
        self._capability = capability
        self.grid = (0, 0, 0)
        self.compiled: Any = None

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        self.grid = grid
        return self._compile

    def _compile(self, *tensors: Tensor, **constants: object) -> None:
        import triton  # pyright: ignore[reportMissingImports]
        from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]
        from triton.compiler import ASTSource  # pyright: ignore[reportMissingImports]

        kernel = fresh_kernel_module().narsil_gather_interact
        pointers = dict(zip(kernel.arg_names, (POINTERS[tensor.dtype] for tensor in tensors), strict=False))
        source = ASTSource(
            fn=kernel,
            signature=pointers | dict.fromkeys(constants, "constexpr"),
            constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
            attrs={(position,): [["tt.divisibility", 16]] for position in range(len(tensors))},
        )
        self.compiled = triton.compile(source, target=GPUTarget("cuda", self._capability, 32))

    @property
    def ptx(self) -> str:
        return str(self.compiled.asm["ptx"])


Compile = Callable[..., Compiler]


@pytest.fixture
def compile_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compile:
    """Compiles for a shape, with an empty cache."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def compiled(
        shape: Shape, dtype: torch.dtype, *, one_id: bool = False, capability: int = 90, tf32: bool = False
    ) -> Compiler:
        compiler = Compiler(capability)
        monkeypatch.setattr(triton_interaction, "_kernel", lambda: compiler)
        model = tiny_model(shape)
        values, offsets = flat(one_id_bags(model, rows=5))
        fused(model, dtype, tf32=tf32)(random_bottom(model, 5, dtype), values, None if one_id else offsets)
        return compiler

    return compiled


def criteo(*formats: RowFormat) -> Shape:
    return Shape(table_rows=(3,) * 26, dim=64, formats=formats)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("one_id", [True, False], ids=["one id", "bags"])
@pytest.mark.parametrize(
    ("row_format", "dtype"),
    [(INT8, torch.float32), (INT4, torch.bfloat16), (FP16, torch.float16), (FP32, torch.float32)],
)
def test_kernel_compiles_to_machine_code_under_its_name(
    compile_kernel: Compile, row_format: RowFormat, dtype: torch.dtype, one_id: bool, capability: int
) -> None:
    compiler = compile_kernel(criteo(row_format), dtype, one_id=one_id, capability=capability)
    assert compiler.compiled.asm["cubin"].startswith(b"\x7fELF")
    assert compiler.compiled.metadata.name == KERNEL_NAME
    assert f".entry {KERNEL_NAME}(" in compiler.ptx


def test_one_program_serves_a_row_of_27_vectors(compile_kernel: Compile) -> None:
    assert compile_kernel(criteo(INT8), torch.float32).grid == (5, 1, 1)


def test_more_vectors_than_a_block_takes_are_tiled(compile_kernel: Compile) -> None:
    compiler = compile_kernel(Shape(table_rows=(3,) * 70, dim=132, formats=(INT4,)), torch.float32)
    assert compiler.grid == (5, 3, 3)
    assert compiler.compiled.metadata.shared <= 48 * 1024, "more is not to be had without asking for it"


@pytest.mark.parametrize(
    ("dtype", "tf32", "products"),
    [
        (torch.float32, False, None),
        (torch.float32, True, ".tf32.tf32."),
        (torch.bfloat16, False, ".bf16.bf16."),
        (torch.float16, False, ".f16.f16."),
    ],
)
def test_tensor_cores_are_used_as_the_precision_allows(
    compile_kernel: Compile, dtype: torch.dtype, tf32: bool, products: str | None
) -> None:
    instructions = [
        line for line in compile_kernel(criteo(INT8), dtype, tf32=tf32).ptx.splitlines() if "mma.sync" in line
    ]
    assert bool(instructions) == (products is not None)
    assert all(f".f32{products}f32" in line for line in instructions)


@pytest.mark.parametrize("row_format", [INT8, INT4, FP16, FP32])
def test_rows_are_read_four_bytes_or_more_at_a_time(compile_kernel: Compile, row_format: RowFormat) -> None:
    ptx = compile_kernel(criteo(row_format), torch.float32, one_id=True).ptx
    assert "ld.global.b8" not in ptx

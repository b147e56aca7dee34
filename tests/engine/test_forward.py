"""The forward reads rows wherever its lookup wants them, and computes in the type that it was given."""

import numpy as np
import pytest
import torch

from narsil_graph.engine.forward import Forward, flat_rows, linear
from narsil_graph.engine.synthetic import one_hot_request
from narsil_graph.model.weights import Model
from tests.engine.tiny import MIXED, SHAPES, Shape, tiny_model


def scores(model: Model, forward: Forward) -> torch.Tensor:
    request = one_hot_request(model.spec, 9, np.random.default_rng(1))
    assert request.ids is not None
    indices = torch.from_numpy(request.ids.T.copy()).view(-1)
    offsets = torch.arange(len(indices) + 1, dtype=torch.int32)
    with torch.inference_mode():
        return forward(torch.from_numpy(request.dense), indices, offsets, None)


@pytest.mark.parametrize("shape", [*SHAPES.values()], ids=[*SHAPES])
def test_padded_rows_score_the_same_bits(shape: Shape) -> None:
    model = tiny_model(shape)
    unpadded = Forward(model, place=torch.clone)
    padded = Forward(model, place=torch.clone, row_alignment_bytes=16)
    assert torch.equal(scores(model, unpadded), scores(model, padded))


def test_padded_tables_begin_at_padded_rows() -> None:
    model = tiny_model(MIXED)
    rows, begins = flat_rows(model, 16)
    assert rows.numel() % 16 == 0
    for table in model.spec.tables:
        stored = torch.from_numpy(model.table_rows(table.name).copy())
        padded_bytes = -(-stored.shape[1] // 16) * 16
        found = rows[begins[table.name] :][: table.rows * padded_bytes].view(table.rows, padded_bytes)
        assert torch.equal(found[:, : stored.shape[1]], stored)
        assert not found[:, stored.shape[1] :].any()


def test_unpadded_rows_of_one_format_are_not_copied() -> None:
    model = tiny_model()
    (stored,) = model.rows.values()
    rows, _ = flat_rows(model, 1)
    assert rows.data_ptr() == torch.from_numpy(stored).data_ptr()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_lower_precision_is_near_and_not_the_same(dtype: torch.dtype, tolerance: float) -> None:
    model = tiny_model()
    exact, rounded = (scores(model, Forward(model, place=torch.clone, dtype=kind)) for kind in (torch.float32, dtype))
    assert rounded.dtype is torch.float32
    assert 0 < float((exact - rounded).abs().max()) < tolerance


@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (1, 1), (4, 3)])
def test_linear_layer_is_weight_times_input_plus_bias(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    out, width = shape
    weight, bias, source = (torch.randn(size, generator=generator) for size in (shape, (out,), (5, width)))
    expected = source.double() @ weight.double().T + bias.double()
    assert torch.allclose(linear(source, weight, bias).double(), expected, atol=1e-6)


def test_weights_are_every_tensor_that_a_replay_reads() -> None:
    model = tiny_model()
    forward = Forward(model, place=torch.clone)
    layers = len(model.dense_layers) + len(model.over_layers)
    assert len(forward.weights()) == 1 + 2 * layers
    before = scores(model, forward)
    for weight in forward.weights()[1:]:
        weight.zero_()
    assert not torch.equal(scores(model, forward), before)

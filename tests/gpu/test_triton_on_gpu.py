"""The fused Triton kernel on a real device: the numbers of plain loops, the same bits every time, also captured."""

import pytest
import torch
from torch import Tensor

from narsil_graph.engine.triton_interaction import TritonInteraction
from narsil_graph.model.spec import RowFormat
from narsil_graph.model.weights import Model
from tests.engine.tiny import FP16, FP32, INT4, INT8, SHAPES, Shape, tiny_model
from tests.engine.triton_cases import ONE_FORMAT, assert_close, flat, fused, one_id_bags, random_bags, random_bottom

pytestmark = pytest.mark.cuda
SHAPED = pytest.mark.parametrize("shape", list(ONE_FORMAT.values()), ids=list(ONE_FORMAT))


def on_device(interaction: TritonInteraction, bottom: Tensor, values: Tensor, offsets: Tensor | None) -> Tensor:
    """The result on the host of inputs on the host."""
    return interaction(bottom.cuda(), values.cuda(), None if offsets is None else offsets.cuda()).cpu()


@SHAPED
def test_bags_give_what_plain_loops_give(shape: Shape) -> None:
    model = tiny_model(shape)
    bags = random_bags(model, rows=130, longest=5)
    bottom = random_bottom(model, len(bags))
    assert_close(on_device(fused(model, device="cuda"), bottom, *flat(bags)), model, bottom, bags)


@SHAPED
def test_one_id_a_feature_gives_what_plain_loops_give(shape: Shape) -> None:
    model = tiny_model(shape)
    bags = one_id_bags(model, rows=130)
    bottom = random_bottom(model, len(bags))
    assert_close(on_device(fused(model, device="cuda"), bottom, flat(bags)[0], None), model, bottom, bags)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("row_format", [INT8, INT4, FP16, FP32])
def test_half_precision_gives_what_plain_loops_give(row_format: RowFormat, dtype: torch.dtype) -> None:
    model = tiny_model(Shape(dim=12, formats=(row_format,)))
    bags = random_bags(model, rows=40, longest=2)
    bottom = random_bottom(model, len(bags), dtype)
    assert_close(on_device(fused(model, dtype, device="cuda"), bottom, *flat(bags)), model, bottom, bags)


def graph_of(interaction: TritonInteraction, bottom: Tensor, values: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A captured call and the tensor that each replay writes."""
    interaction(bottom, values, None)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        top = interaction(bottom, values, None)
    return graph, top


def inputs(model: Model, rows: int) -> tuple[Tensor, Tensor]:
    return random_bottom(model, rows).cuda(), flat(one_id_bags(model, rows=rows))[0].cuda()


def test_replays_of_one_input_are_bit_identical() -> None:
    model = tiny_model(SHAPES["27 vectors"])
    graph, top = graph_of(fused(model, device="cuda"), *inputs(model, 100))
    seen: list[Tensor] = []
    for _ in range(3):
        top.zero_()
        graph.replay()
        seen.append(top.cpu())
    assert all(torch.equal(seen[0], other) for other in seen[1:])


def test_a_replay_reads_the_ids_that_are_there_then() -> None:
    model = tiny_model(SHAPES["27 vectors"])
    interaction = fused(model, device="cuda")
    bottom, values = inputs(model, 100)
    graph, top = graph_of(interaction, bottom, values)
    values.zero_()
    graph.replay()
    replayed = top.clone()
    assert torch.equal(replayed, interaction(bottom, values, None))

"""Every kernel that a chain of dense layers may be given computes that chain."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from narsil_graph.engine.cpu_dense import DenseChain
from narsil_graph.engine.cpu_int8 import Int8Chain, Quantise
from narsil_graph.engine.forward import Layers
from narsil_graph.engine.pick import Candidate, agreeing
from narsil_graph.engine.scratch import Scratch
from tests.engine.tiny import linear

F32, BF16 = torch.float32, torch.bfloat16
# bfloat16 keeps 8 bits and is rounded once a layer; int8 is off by half a step of 255 a layer.
TOLERANCES = {F32: 1e-6, BF16: 2e-2, torch.uint8: 3e-2}
WIDTHS = {
    "one layer": (5, 8),
    "two layers": (5, 12, 8),
    "three layers": (13, 33, 20, 8),
    "one layer to a score": (9, 1),
    "three layers to a score": (40, 31, 12, 1),
    "through a single value": (6, 1, 8),
}
CHAINS = pytest.mark.parametrize("widths", list(WIDTHS.values()), ids=list(WIDTHS))
ROWS = pytest.mark.parametrize("rows", [1, 7, 64])


def layers_of(widths: tuple[int, ...]) -> Layers:
    rng = np.random.default_rng(len(widths))
    made = [linear(out, width, rng) for width, out in pairwise(widths)]
    return tuple((torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)) for layer in made)


def exact_inputs(layers: Layers, source: Tensor, *, relu_last: bool) -> list[NDArray[np.float64]]:
    """The input of every layer in float64, and the chain's output."""
    values = [source.double().numpy()]
    for number, (weight, bias) in enumerate(layers):
        out = values[-1] @ weight.double().numpy().T + bias.double().numpy()
        values.append(np.maximum(out, 0) if relu_last or number + 1 < len(layers) else out)
    return values


def buffers(widths: tuple[int, ...], rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A random source, and a target whose rows lie apart as they do in the plan."""
    generator = torch.Generator().manual_seed(rows)
    source = (torch.rand(rows, widths[0], generator=generator) * 2 - 1).to(dtype)
    wide = torch.zeros(rows, widths[-1] + (3 if widths[-1] > 1 else 0), dtype=F32 if widths[-1] == 1 else dtype)
    return source, wide[:, : widths[-1]]


def error(target: Tensor, exact: NDArray[np.float64]) -> float:
    return float(np.abs(target.double().numpy() - exact).max() / max(np.abs(exact).max(), 1.0))


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a chain offers on two threads, run on one."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@CHAINS
@ROWS
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.usefixtures("two_threads")
def test_every_candidate_agrees_with_float64(widths: tuple[int, ...], rows: int, dtype: torch.dtype) -> None:
    relu_last = widths[-1] > 1
    layers = layers_of(widths)
    source, target = buffers(widths, rows, dtype)
    exact = exact_inputs(layers, source, relu_last=relu_last)[-1]
    with torch.inference_mode():
        candidates = DenseChain(layers, Scratch(), relu_last=relu_last, dtype=dtype).candidates(source, target)
        assert len(candidates) >= 2
        for candidate in candidates:
            for _ in range(2):
                target.fill_(float("nan"))
                candidate.run()
                assert error(target, exact) <= TOLERANCES[dtype], candidate.name


def test_candidates_follow_their_source() -> None:
    layers = layers_of((5, 12, 8))
    source, target = buffers((5, 12, 8), 7, F32)
    for candidate in DenseChain(layers, Scratch(), relu_last=True, dtype=F32).candidates(source, target):
        source.uniform_(-1, 1)
        candidate.run()
        assert error(target, exact_inputs(layers, source, relu_last=True)[-1]) <= TOLERANCES[F32]


def test_one_chain_serves_buckets_of_several_sizes_over_one_scratch() -> None:
    widths = WIDTHS["three layers"]
    layers = layers_of(widths)
    chain = DenseChain(layers, Scratch(), relu_last=True, dtype=F32)
    bound = [(*buffers(widths, rows, F32),) for rows in (64, 1, 9)]
    runs = [[candidate.run for candidate in chain.candidates(*pair)] for pair in bound]
    for (source, target), calls in zip(bound, runs, strict=True):
        for call in calls:
            call()
            assert error(target, exact_inputs(layers, source, relu_last=True)[-1]) <= TOLERANCES[F32]


@CHAINS
@pytest.mark.parametrize("rows", [2, 3, 5, 16, 100])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.usefixtures("two_threads")
def test_candidates_that_may_serve_give_a_row_the_same_bits_anywhere(
    widths: tuple[int, ...], rows: int, dtype: torch.dtype
) -> None:
    source, target = buffers(widths, rows, dtype)
    chain = DenseChain(layers_of(widths), Scratch(), relu_last=widths[-1] > 1, dtype=dtype)
    tolerance = TOLERANCES[dtype]
    with torch.inference_mode():
        for candidate in agreeing(chain.candidates(source, target), source=source, target=target, tolerance=tolerance):
            assert_blind_to_position(candidate, source, target)


def assert_blind_to_position(candidate: Candidate, source: Tensor, target: Tensor) -> None:
    """A row moved elsewhere takes its bits along."""
    rows = source.uniform_(-1, 1, generator=torch.Generator().manual_seed(1)).clone()
    candidate.run()
    found = target.clone()
    for shift in range(1, len(rows), max(len(rows) // 10, 1)):
        source.copy_(rows.roll(shift, 0))
        candidate.run()
        assert torch.equal(target, found.roll(shift, 0)), candidate.name


def names(rows: int) -> list[str]:
    chain = DenseChain(layers_of((64, 8)), Scratch(), relu_last=True, dtype=F32)
    return [found.name for found in chain.candidates(*buffers((64, 8), rows, F32))]


def test_blocks_on_one_thread_need_no_onednn() -> None:
    assert names(64) == ["mkl", "openblas"]


def test_openblas_is_not_offered_where_blocks_would_be_large() -> None:
    assert names(1024) == ["mkl", "onednn"]


@pytest.mark.usefixtures("two_threads")
def test_every_kernel_is_offered_on_two_threads() -> None:
    assert names(64) == ["mkl", "openblas", "onednn"]


def test_last_layer_without_relu_keeps_negative_values() -> None:
    layers = layers_of((5, 12, 8))
    source, target = buffers((5, 12, 8), 9, F32)
    exact = exact_inputs(layers, source, relu_last=False)[-1]
    assert (exact < 0).any()
    for candidate in DenseChain(layers, Scratch(), relu_last=False, dtype=F32).candidates(source, target):
        candidate.run()
        assert error(target, exact) <= TOLERANCES[F32]


@CHAINS
@pytest.mark.parametrize("rows", [2, 3, 5, 16, 100])
def test_int8_chain_gives_a_row_the_same_bits_anywhere(widths: tuple[int, ...], rows: int) -> None:
    source, target = buffers(widths, rows, F32)
    layers = layers_of(widths)
    chain = Int8Chain(
        layers, [(-1.0, 1.0)] * len(layers), Scratch(), relu_last=widths[-1] > 1, float_first=len(layers) > 1
    )
    with torch.inference_mode():
        for candidate in chain.candidates(source, target):
            assert_blind_to_position(candidate, source, target)


@CHAINS
@ROWS
@pytest.mark.parametrize("float_first", [False, True])
def test_int8_chain_agrees_with_float64_within_its_steps(widths: tuple[int, ...], rows: int, float_first: bool) -> None:
    relu_last = widths[-1] > 1
    layers = layers_of(widths)
    source, target = buffers(widths, rows, BF16)
    # A score cannot follow a first layer that is also the last: the head is float32 already.
    float_first = float_first and len(layers) > 1
    values = exact_inputs(layers, source, relu_last=relu_last)
    ranges = [(float(x.min()), float(x.max())) for x in values[:-1]]
    with torch.inference_mode():
        chain = Int8Chain(layers, ranges, Scratch(), relu_last=relu_last, float_first=float_first)
        for candidate in chain.candidates(source.float(), target):
            target.fill_(float("nan"))
            candidate.run()
            assert error(target, values[-1]) <= TOLERANCES[torch.uint8]


def test_quantise_rounds_to_the_nearest_code_and_saturates() -> None:
    codes = Quantise(Scratch(), 1, 6, 0.5, 10)(torch.tensor([[0.0, 0.2, 0.3, -5.0, -900.0, 900.0]]))
    assert codes.tolist() == [[10, 10, 11, 0, 0, 255]]


def test_quantise_reads_bfloat16_without_losing_more_of_it() -> None:
    values = torch.linspace(0.0, 5.0, 640).view(10, 64).to(BF16)
    quantise = Quantise(Scratch(), 10, 64, 5.0 / 255, 0)
    assert torch.equal(quantise(values).clone(), quantise(values.float()))


@pytest.mark.parametrize("width", [8, 10, 13])
def test_quantise_gives_equal_values_equal_codes_anywhere(width: int) -> None:
    scale = 0.013
    # Halfway between two codes, where one rounding more or less decides.
    column = (torch.arange(255)[:, None] + 0.5) * scale
    codes = Quantise(Scratch(), 255, width, scale, 0)(column.expand(255, width).contiguous())
    assert torch.equal(codes, codes[:, :1].expand(255, width))

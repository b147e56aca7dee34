"""Captured graphs on a real device: one forward each, the model's scores, the same bits every time."""

import numpy as np
import pytest
import torch

from narsil_graph.engine.cuda_device import CudaDevice
from narsil_graph.engine.cuda_graph import CudaGraphs
from narsil_graph.engine.eager import EagerForward
from narsil_graph.engine.graph_nodes import NodeKind
from narsil_graph.engine.graph_options import Completion, GraphOptions, Kernels
from narsil_graph.engine.launcher import DeviceFault, Precision
from narsil_graph.model.reference import reference_model
from narsil_graph.start_check import TOLERANCES
from tests.engine.graph_requests import requests, scores_of, slots_of
from tests.engine.tiny import MIXED, SHAPES, Shape, tiny_model
from tests.gpu.captured import (
    POISON_ID,
    assert_exact,
    captured,
    prepared,
    problems_of,
)

pytestmark = pytest.mark.cuda
SHAPED = pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))
REPLAYS = 1000


@SHAPED
def test_replays_score_the_model(shape: Shape) -> None:
    model = tiny_model(shape)
    engine, (ones, bags) = captured(model), requests(model)
    for batch in ([ones], [bags], [ones, bags], [bags, ones], [ones]):
        assert_exact(scores_of(engine, *batch), model, *batch)


@SHAPED
def test_graphs_are_one_forward_and_nothing_else(shape: Shape) -> None:
    model = tiny_model(shape)
    engine = captured(model)
    assert problems_of(engine) == []
    for slot in slots_of(engine):
        copies = [node for node in slot.one_id.nodes() if node.kind is NodeKind.MEMCPY]
        assert len(copies) == 2


@pytest.mark.parametrize("precision", [Precision.F32, Precision.TF32, Precision.BF16, Precision.FP16])
@pytest.mark.parametrize("kernels", list(Kernels))
def test_replays_equal_the_eager_forward_in_every_precision(precision: Precision, kernels: Kernels) -> None:
    if kernels is Kernels.TRITON:
        pytest.importorskip("triton")
    model = reference_model(seed=0, rows=1000)
    engine = captured(model, GraphOptions(precision=precision, kernels=kernels), rows=(8,))
    eager = EagerForward(model, CudaDevice().torch_device, precision)
    slot = eager.capture(engine.ladder.buckets[-1])[0]
    for request in requests(model):
        slot.arena.fill([(request, 0, request.rows)])
        eager.launch(slot)
        found = scores_of(engine, request)
        # Each may be that far from float64, on either side.
        assert np.abs(found - slot.scores[: request.rows]).max() <= 2 * TOLERANCES[precision]
        assert_exact(found, model, request, precision=precision)


@SHAPED
def test_two_replays_of_one_input_have_the_same_bits(shape: Shape) -> None:
    model = tiny_model(shape)
    engine = captured(model)
    for request in requests(model):
        assert scores_of(engine, request).tobytes() == scores_of(engine, request).tobytes()


@pytest.mark.parametrize("shape", [SHAPES["4 vectors"], MIXED], ids=["plain", "mixed"])
def test_poison_around_the_rows_changes_nothing(shape: Shape) -> None:
    model = tiny_model(shape)
    engine = captured(model)
    for request in requests(model):
        clean = scores_of(engine, request)
        for slot in slots_of(engine):
            slot.arena.dense.fill(np.nan)
            slot.arena.values.fill(POISON_ID)
            slot.arena.offsets.fill(POISON_ID)
        assert scores_of(engine, request).tobytes() == clean.tobytes()


def test_ids_behind_the_last_row_stay_inside_their_tables() -> None:
    model = tiny_model()
    engine, (ones, _) = captured(model), requests(model)
    clean, slot = scores_of(engine, ones), slots_of(engine)[0]
    slot.arena.fill([(ones, 0, ones.rows)])
    slot.arena.values[slot.arena.ids :] = POISON_ID
    slot.arena.dense[ones.rows :] = np.nan
    engine.launcher.launch(slot)
    engine.launcher.wait(slot)
    assert engine.launcher.scores(slot)[: ones.rows].tobytes() == clean.tobytes()


@pytest.mark.parametrize("completion", list(Completion))
def test_lanes_and_slots_in_flight_together_keep_their_batches_apart(completion: Completion) -> None:
    model = tiny_model()
    engine = captured(model, GraphOptions(lanes=2, slots_per_lane=2, completion=completion))
    batches = [requests(model, seed=seed)[seed % 2] for seed in range(4)]
    flights = [engine.submit(engine.ladder.buckets[-1], [(batch, 0, batch.rows)]) for batch in batches]
    assert not engine.room
    for flight, batch in zip(flights, batches, strict=True):
        assert_exact(engine.finish(flight).scores[: batch.rows].copy(), model, batch)
    assert engine.idle


def test_hidden_wait_for_the_device_is_found_before_any_capture() -> None:
    lane = CudaDevice().open_lane()
    numbers = torch.ones(4, device="cuda")
    with pytest.raises(DeviceFault, match="warming up"):
        lane.warm_up(lambda: numbers.sum().item())
    lane.warm_up(lambda: numbers.sum())


def test_replay_sees_weights_that_were_updated_in_place() -> None:
    model = tiny_model()
    engine, (ones, _) = captured(model), requests(model)
    before, launcher = scores_of(engine, ones), engine.launcher
    assert isinstance(launcher, CudaGraphs)
    _, last_bias = launcher._forward.over_layers[-1]  # pyright: ignore[reportPrivateUsage]
    with torch.inference_mode():
        last_bias.add_(1.0)
    torch.cuda.synchronize()
    # One more on every logit.
    raised = 1 / (1 + (1 / before - 1) * np.exp(-1.0))
    assert np.abs(scores_of(engine, ones) - raised).max() <= TOLERANCES[Precision.F32]
    assert problems_of(engine) == []


def test_footprint_stays_the_same_over_a_thousand_replays() -> None:
    model = tiny_model()
    engine, both = captured(model, rows=(1, 4, 8)), requests(model)

    def replay(count: int) -> None:
        for number in range(count):
            request = both[number % 2]
            engine.run(engine.ladder.buckets[1 + number % 3 % 2], [(request, 0, request.rows)])

    replay(50)
    before = engine.launcher.footprint()
    replay(REPLAYS)
    assert engine.launcher.footprint() == before


def test_bucket_captured_while_others_serve_scores_as_they_do() -> None:
    model = tiny_model()
    engine, both = prepared(model, rows=(4, 8, 16)), requests(model)
    small, middle, largest = engine.ladder.buckets
    engine.capture(largest)
    served = [scores_of(engine, request) for request in both]
    for bucket in (small, middle):
        engine.capture(bucket)
        assert [scores_of(engine, request).tobytes() for request in both] == [each.tobytes() for each in served]
    for request in both:
        for number in (0, 1, 2):
            assert_exact(scores_of(engine, request, bucket=number), model, request)

"""A plan scores the model in every arithmetic, and a row's score depends on that row and its bucket alone."""

from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from narsil_graph.engine.arena import RowRange
from narsil_graph.engine.calibrate import calibrated
from narsil_graph.engine.cpu_pipeline import Pipeline
from narsil_graph.engine.cpu_plan import ALLOWED, CpuPlan
from narsil_graph.engine.doctor import TOLERANCES
from narsil_graph.engine.exact import exact_scores
from narsil_graph.engine.launcher import Precision, Slot
from narsil_graph.engine.scratch import Scratch
from narsil_graph.engine.synthetic import multi_hot_request, one_hot_request
from narsil_graph.model.spec import SpecError
from narsil_graph.model.weights import Model
from narsil_transport.buckets import Bucket
from narsil_transport.messages import InferRequest
from tests.engine.tiny import SHAPES, Shape, multi_hot, tiny_model

ROWS = 16
SHAPED = pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))
# One of each road through the plan: one lookup or a reorder, each kind of chain.
TELLING = ["4 vectors", "27 vectors", "mean", "mixed formats and poolings", "dim 64", "one layer each"]
TELLING_SHAPES = pytest.mark.parametrize("shape", [SHAPES[name] for name in TELLING], ids=TELLING)
PRECISIONS = pytest.mark.parametrize("precision", list(ALLOWED), ids=lambda precision: precision.value)


@cache
def model_of(shape: Shape) -> Model:
    model = tiny_model(shape)
    rng = np.random.default_rng(5)
    return calibrated(model, [one_hot_request(model.spec, 64, rng), multi_hot_request(model.spec, 64, 3, rng)])


def bucket_of(model: Model, rows: int = ROWS) -> Bucket:
    return Bucket(rows, rows * 3 * len(model.spec.sparse_features))


@cache
def captured(shape: Shape, precision: Precision, rows: int = ROWS) -> tuple[CpuPlan, Slot]:
    """A plan whose one program is of ``precision`` itself, not of a higher one that happened to be faster."""
    plan = CpuPlan(model_of(shape), precision)
    (slot,) = plan.capture(bucket_of(model_of(shape), rows))
    scores = torch.zeros(rows)
    with torch.inference_mode():
        slot.program = Pipeline(model_of(shape), precision, Scratch()).bind(slot.arena, scores).run
    slot.scores = scores.numpy()
    return plan, slot


def scored(plan: CpuPlan, slot: Slot, pieces: list[RowRange]) -> NDArray[np.float32]:
    slot.arena.fill(pieces)
    plan.launch(slot)
    assert plan.ready(slot)
    return plan.scores(slot)[: slot.arena.rows].copy()


def requests_of(model: Model, *, rows: int = 6) -> tuple[InferRequest, InferRequest]:
    """A one-hot and a multi-hot request."""
    rng = np.random.default_rng(rows)
    return one_hot_request(model.spec, rows, rng), multi_hot_request(model.spec, rows, 3, rng)


@SHAPED
@PRECISIONS
def test_scores_are_the_exact_ones_within_the_tolerance_of_the_arithmetic(shape: Shape, precision: Precision) -> None:
    plan, slot = captured(shape, precision)
    ones, bags = requests_of(model_of(shape))
    for batch in ([ones], [bags], [ones, bags], [bags, ones]):
        exact = np.concatenate([exact_scores(model_of(shape), request) for request in batch])
        scores = scored(plan, slot, [(request, 0, request.rows) for request in batch])
        assert np.abs(scores - exact).max() <= TOLERANCES[precision]


@SHAPED
@PRECISIONS
def test_whatever_is_picked_scores_as_well(shape: Shape, precision: Precision) -> None:
    model = model_of(shape)
    plan = CpuPlan(model, precision)
    (slot,) = plan.capture(bucket_of(model, rows=6))
    for request in requests_of(model):
        scores = scored(plan, slot, [(request, 0, request.rows)])
        assert np.abs(scores - exact_scores(model, request)).max() <= TOLERANCES[precision]


@TELLING_SHAPES
@PRECISIONS
def test_row_scores_the_same_bits_at_any_fill(shape: Shape, precision: Precision) -> None:
    plan, slot = captured(shape, precision)
    for request in requests_of(model_of(shape), rows=ROWS):
        full = scored(plan, slot, [(request, 0, ROWS)])
        for rows in (1, 2, 7, ROWS - 1):
            assert scored(plan, slot, [(request, 0, rows)]).tobytes() == full[:rows].tobytes()


@TELLING_SHAPES
@PRECISIONS
@pytest.mark.parametrize("rows", [2, 7, 16, 100])
def test_row_scores_the_same_bits_at_any_position(shape: Shape, precision: Precision, rows: int) -> None:
    # Vector loops treat the rows after the last full vector differently, each kernel at a length of its own.
    plan, slot = captured(shape, precision, rows)
    for request in requests_of(model_of(shape), rows=rows):
        together = scored(plan, slot, [(request, 0, rows)])
        for shift in range(1, rows, max(rows // 25, 1)):
            turned = scored(plan, slot, [(request, shift, rows), (request, 0, shift)])
            assert turned.tobytes() == np.roll(together, -shift).tobytes()


@TELLING_SHAPES
@PRECISIONS
def test_row_scores_the_same_bits_whatever_its_neighbours(shape: Shape, precision: Precision) -> None:
    plan, slot = captured(shape, precision)
    ones, bags = requests_of(model_of(shape))
    others = requests_of(model_of(shape), rows=5)
    huge = InferRequest(0, "", None, None, others[0].dense * 1e6, others[0].ids, None, None)
    for request in (ones, bags):
        alone = scored(plan, slot, [(request, 0, 6)])
        for neighbour in (*others, huge):
            beside = scored(plan, slot, [(neighbour, 0, 3), (request, 0, 6), (neighbour, 3, 5)])
            assert beside[3:9].tobytes() == alone.tobytes()


@TELLING_SHAPES
@PRECISIONS
def test_padding_is_never_seen(shape: Shape, precision: Precision) -> None:
    plan, slot = captured(shape, precision)
    for request in requests_of(model_of(shape)):
        clean = scored(plan, slot, [(request, 0, request.rows)])
        slot.arena.dense.fill(np.nan)
        slot.arena.values.fill(2**31 - 1)
        slot.arena.offsets.fill(2**31 - 1)
        assert scored(plan, slot, [(request, 0, request.rows)]).tobytes() == clean.tobytes()
        slot.arena.dense[slot.arena.rows :] = np.nan
        slot.arena.values[slot.arena.ids :] = 2**31 - 1
        plan.launch(slot)
        assert plan.scores(slot)[: slot.arena.rows].tobytes() == clean.tobytes()


@PRECISIONS
@pytest.mark.parametrize("sizes", [(16, 4, 1), (1, 4, 16)], ids=["largest first", "smallest first"])
def test_buckets_of_one_plan_do_not_disturb_each_other(precision: Precision, sizes: tuple[int, ...]) -> None:
    model = model_of(SHAPES["4 vectors"])
    plan = CpuPlan(model, precision)
    slots = [plan.capture(bucket_of(model, rows))[0] for rows in sizes]
    requests = [one_hot_request(model.spec, rows, np.random.default_rng(rows)) for rows in sizes]
    first = [scored(plan, slot, [(r, 0, r.rows)]) for slot, r in zip(slots, requests, strict=True)]
    again = [scored(plan, slot, [(r, 0, r.rows)]) for slot, r in zip(slots, requests, strict=True)]
    for request, once, twice in zip(requests, first, again, strict=True):
        assert once.tobytes() == twice.tobytes()
        assert np.abs(once - exact_scores(model, request)).max() <= TOLERANCES[precision]


def test_kernels_name_the_arithmetic_and_each_stage() -> None:
    precision, kernels = CpuPlan(model_of(SHAPES["4 vectors"])).capture(Bucket(4, 12))[0].kernels.split(" ")
    assert precision == "f32"
    assert len(kernels.split("/")) == 3


@pytest.mark.parametrize("shape", [SHAPES["4 vectors"], SHAPES["mixed formats"]], ids=["uniform", "mixed"])
def test_bucket_with_room_for_fewer_ids_than_one_a_feature_is_captured(shape: Shape) -> None:
    # A ladder of a multi-hot model may hold sparse rows: the timing input must still fit.
    model = model_of(shape)
    plan = CpuPlan(model)
    (slot,) = plan.capture(Bucket(8, 4))
    request = multi_hot(np.ones((8, 3), np.float32), [[[], [], []]] * 8)
    assert np.abs(scored(plan, slot, [(request, 0, 8)]) - exact_scores(model, request)).max() <= 1e-6


def test_int8_without_activation_ranges_is_refused() -> None:
    with pytest.raises(SpecError, match=r"model 'tiny' has no activation ranges.*calibrate"):
        CpuPlan(tiny_model(), Precision.INT8)

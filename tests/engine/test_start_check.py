"""A server starts only with buckets that score the model, by every slot, and that their launcher finds in order."""

from collections.abc import Iterator

import numpy as np
import pytest

from narsil_graph.engine.cuda_graph import CudaGraphs
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.graph_options import GraphOptions
from narsil_graph.engine.launcher import Finding, Precision, Slot
from narsil_graph.errors import Failure
from narsil_graph.metrics import Counters
from narsil_graph.model.weights import Model
from narsil_graph.start_check import StartCheck
from narsil_transport.buckets import Bucket, BucketLadder
from tests.engine.tape import TapeDevice
from tests.engine.tiny import tiny_model

MODEL = tiny_model()
BUCKET = Bucket(9, 36)


class Spoilt(CudaGraphs):
    """Adds ``error`` to the scores of the slots of one lane, and finds ``problem``."""

    def __init__(self, *, error: float = 0.0, lane: int = 0, problem: str | None = None) -> None:
        super().__init__(MODEL, TapeDevice(), GraphOptions(lanes=2))
        self._error, self._lane, self._problem = error, lane, problem

    def scores(self, slot: Slot) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return super().scores(slot) + np.float32(self._error * (slot.lane == self._lane))

    def examine(self, slot: Slot) -> Iterator[Finding]:
        yield Finding("nodes", self._problem)


def check(launcher: CudaGraphs, model: Model = MODEL) -> tuple[StartCheck, Counters]:
    engine = Engine(launcher, BucketLadder((BUCKET,)))
    engine.capture_all(lambda bucket, captured: None)
    counters = Counters(eager=False)
    return StartCheck(model, engine, Precision.F32, counters), counters


def test_healthy_bucket_is_scored_by_every_slot_and_counted() -> None:
    run, counters = check(CudaGraphs(MODEL, TapeDevice(), GraphOptions(lanes=2)))
    assert run(BUCKET) < 1e-6
    assert counters.line() == "launches=9:4/0/4"


@pytest.mark.parametrize("lane", [0, 1])
def test_wrong_scores_of_any_lane_are_refused(lane: int) -> None:
    run, _ = check(Spoilt(error=1e-3, lane=lane))
    with pytest.raises(
        Failure, match=r"bucket 9 is 1\.0e-03 off the float64 scores, more than 1e-05: run narsil-graph"
    ):
        run(BUCKET)


def test_scores_that_are_not_numbers_are_refused() -> None:
    run, _ = check(Spoilt(error=float("nan")))
    with pytest.raises(Failure, match="bucket 9 is nan off"):
        run(BUCKET)


def test_what_the_launcher_finds_is_refused() -> None:
    run, _ = check(Spoilt(problem="the graph is empty"))
    with pytest.raises(Failure, match="bucket 9: nodes: the graph is empty"):
        run(BUCKET)

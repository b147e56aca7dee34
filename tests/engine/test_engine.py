"""An engine has a program for every bucket, and a run is a fill, one launch, a wait."""

import numpy as np
from numpy.typing import NDArray

from narsil_graph.engine.arena import Arena
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.launcher import Slot
from narsil_transport.buckets import Bucket, BucketLadder
from tests.engine.tiny import one_hot

LADDER = BucketLadder.from_rows((1, 4, 16), ids_per_row=2)


class Recorder:
    """A launcher that notes what it is asked, and is ready at the third question."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._polls = 0

    def capture(self, bucket: Bucket) -> Slot:
        self.calls.append(f"capture {bucket.rows}")
        arena = Arena(bucket, dense_width=1, id_bases=np.zeros(2, np.int32), lead=0)
        return Slot(arena, lambda: None, np.full(bucket.rows, bucket.rows, np.float32), "none")

    def launch(self, slot: Slot) -> None:
        self.calls.append(f"launch {slot.arena.rows} of {slot.arena.bucket.rows}")

    def ready(self, slot: Slot) -> bool:
        self._polls += 1
        self.calls.append("ready?")
        return self._polls == 3

    def scores(self, slot: Slot) -> NDArray[np.float32]:
        self.calls.append("scores")
        return slot.scores


def test_every_bucket_is_captured_largest_first() -> None:
    launcher, told = Recorder(), []
    engine = Engine(launcher, LADDER)
    engine.capture(lambda bucket, slot, seconds: told.append((bucket, slot, seconds >= 0)))
    assert launcher.calls == ["capture 16", "capture 4", "capture 1"]
    assert told == [(bucket, engine.slots[bucket], True) for bucket in reversed(LADDER.buckets)]
    assert set(engine.slots) == set(LADDER.buckets)


def test_run_fills_launches_once_and_waits() -> None:
    launcher = Recorder()
    engine = Engine(launcher, LADDER)
    engine.capture(lambda *_: None)
    launcher.calls.clear()
    request = one_hot(np.ones((3, 1), np.float32), np.array([[1, 2], [3, 4], [5, 6]], np.int32))
    launched = engine.run(LADDER.buckets[1], [(request, 0, 2), (request, 2, 3)])
    assert launcher.calls == ["launch 3 of 4", "ready?", "ready?", "ready?", "scores"]
    assert launched.scores.tolist() == [4, 4, 4, 4]
    assert engine.slots[LADDER.buckets[1]].arena.values.tolist() == [1, 2, 3, 4, 5, 6, 0, 0]
    assert launched.fill_ns > 0
    assert launched.launch_ns > 0

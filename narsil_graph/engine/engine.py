"""Every bucket captured, and one call that scores a batch."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narsil_graph.engine.arena import RowRange
from narsil_graph.engine.launcher import Launcher, Slot
from narsil_transport.buckets import Bucket, BucketLadder


@dataclass(frozen=True, slots=True)
class Launched:
    """Scores f4 [bucket rows], valid until the bucket's next launch, and where the time went."""

    scores: NDArray[np.float32]
    fill_ns: int
    launch_ns: int


class Engine:
    """One slot per bucket of the ladder; a bucket without a program cannot exist once ``capture`` has returned."""

    def __init__(self, launcher: Launcher, ladder: BucketLadder) -> None:
        self.launcher = launcher
        self.ladder = ladder
        self.slots: dict[Bucket, Slot] = {}

    def capture(self, progress: Callable[[Bucket, Slot, float], None]) -> None:
        """Capture every bucket, largest first; ``progress`` is told each bucket, its slot and the seconds it took."""
        for bucket in reversed(self.ladder.buckets):
            begin = time.perf_counter()
            self.slots[bucket] = self.launcher.capture(bucket)
            progress(bucket, self.slots[bucket], time.perf_counter() - begin)

    def run(self, bucket: Bucket, row_ranges: Iterable[RowRange]) -> Launched:
        """Fill the bucket's arena, launch, wait."""
        slot = self.slots[bucket]
        begin = time.perf_counter_ns()
        slot.arena.fill(row_ranges)
        filled = time.perf_counter_ns()
        self.launcher.launch(slot)
        while not self.launcher.ready(slot):
            pass
        scores = self.launcher.scores(slot)
        return Launched(scores=scores, fill_ns=filled - begin, launch_ns=time.perf_counter_ns() - filled)

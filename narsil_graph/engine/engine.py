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
class Captured:
    """A bucket's slots, and what capturing them cost."""

    slots: tuple[Slot, ...]
    seconds: float
    device_bytes: int


@dataclass(slots=True)
class Flight:
    """A launch whose scores have not been read."""

    slot: Slot
    fill_ns: int
    launched_ns: int


@dataclass(slots=True)
class Launched:
    """Scores f4 [bucket rows], valid until their slot is released, and where the time went."""

    scores: NDArray[np.float32]
    fill_ns: int
    launch_ns: int


class Engine:
    """The slots of every bucket of ``ladder`` that has been captured, and the launches in flight on them."""

    def __init__(self, launcher: Launcher, ladder: BucketLadder) -> None:
        self.launcher = launcher
        self.ladder = ladder
        self.captured: dict[Bucket, Captured] = {}
        self.room = 0
        """Launches that the lanes take before one has been released."""
        self._in_flight: dict[int, int] = {}

    def prepare(self) -> None:
        """Allocate and warm up every bucket of the ladder; ``capture`` may follow."""
        self.launcher.prepare(self.ladder.buckets)

    def capture(self, bucket: Bucket) -> Captured:
        """Capture one prepared bucket. Nothing may be in flight."""
        assert self.idle
        begin, before = time.perf_counter(), self.launcher.footprint().device_bytes
        slots = self.launcher.capture(bucket)
        grown = self.launcher.footprint().device_bytes - before
        self.captured[bucket] = Captured(slots, time.perf_counter() - begin, grown)
        for lane in {slot.lane for slot in slots} - self._in_flight.keys():
            self._in_flight[lane] = 0
            self.room += self.launcher.slots_per_lane
        return self.captured[bucket]

    def capture_all(self, progress: Callable[[Bucket, Captured], None]) -> None:
        """Prepare and capture every bucket, largest first: one pool then holds the largest, not the sum."""
        self.prepare()
        for bucket in reversed(self.ladder.buckets):
            progress(bucket, self.capture(bucket))

    def adopt(self, ladder: BucketLadder) -> None:
        """Make ``ladder`` the one to capture, and prepare what of it is new. Its largest bucket has been captured."""
        assert ladder.buckets[-1] in self.captured
        self.launcher.prepare([bucket for bucket in ladder.buckets if bucket not in self.captured])
        self.ladder = ladder

    @property
    def captured_ladder(self) -> BucketLadder:
        """The buckets that a batch can go to now: those captured so far."""
        return BucketLadder(tuple(bucket for bucket in self.ladder.buckets if bucket in self.captured))

    @property
    def lanes(self) -> int:
        """How many lanes take launches."""
        return len(self._in_flight)

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight."""
        return not any(self._in_flight.values())

    def submit(self, bucket: Bucket, row_ranges: Iterable[RowRange]) -> Flight:
        """Fill a free slot of the emptiest lane and launch it. There must be ``room``."""
        # A lane has as many slots of each bucket as launches it takes at once: the emptiest has a free one.
        flights, best = self._in_flight, None
        for slot in self.captured[bucket].slots:
            if not slot.in_flight and (best is None or flights[slot.lane] < flights[best.lane]):
                best = slot
        assert best is not None
        return self.submit_to(best, row_ranges)

    def submit_to(self, slot: Slot, row_ranges: Iterable[RowRange]) -> Flight:
        """Fill and launch this slot, which is free."""
        begin = time.perf_counter_ns()
        slot.arena.fill(row_ranges)
        filled = time.perf_counter_ns()
        slot.in_flight = True
        self._in_flight[slot.lane] += 1
        self.room -= 1
        self.launcher.launch(slot)
        return Flight(slot, filled - begin, filled)

    def landed(self, flight: Flight) -> bool:
        """Whether its scores can be read. Never blocks."""
        return self.launcher.ready(flight.slot)

    def read(self, flight: Flight) -> Launched:
        """The scores of a landed flight, valid until it is released."""
        scores = self.launcher.scores(flight.slot)
        return Launched(scores, flight.fill_ns, time.perf_counter_ns() - flight.launched_ns)

    def release(self, flight: Flight) -> None:
        """The scores have been copied or sent: the slot is free."""
        flight.slot.in_flight = False
        self._in_flight[flight.slot.lane] -= 1
        self.room += 1

    def run(self, bucket: Bucket, row_ranges: Iterable[RowRange]) -> Launched:
        """Fill, launch, wait. The scores are valid until the bucket's next launch."""
        return self.finish(self.submit(bucket, row_ranges))

    def finish(self, flight: Flight) -> Launched:
        """Wait for a flight, read it and free its slot; the scores are valid until the slot's next launch."""
        self.launcher.wait(flight.slot)
        launched = self.read(flight)
        self.release(flight)
        return launched

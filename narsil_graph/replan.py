"""A better ladder for the traffic of the last minutes, proposed now and then. Pure: told of requests and the time."""

from collections.abc import Callable, Iterable

import numpy as np

from narsil_graph.planner import CostCurve, Histogram, Ints, expected_us, plan_ladder
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel

REPLAN_EVERY_S = 30
# Fewer say too little about a distribution's tail, where the buckets are that cost most.
REQUESTS_MIN = 1000
# Estimates of costs wander by a few per cent: a smaller gain may be none, and captures are never free.
GAIN_MIN = 0.05
# A capture takes some milliseconds to seconds, and a ladder is used when the last of them is made.
CAPTURES_AT_ONCE_MAX = 4
# Captured buckets keep their memory to the end: so many times those of the first ladder may come together.
CAPTURED_MAX_FACTOR = 3
# The sizes that are candidates for a bucket: each holds a 128th of the requests, so a plan takes milliseconds.
CANDIDATES = 128


class Replanner:
    """What requests of late would have cost by another ladder than the one in use.

    A ladder has as many buckets as the first at most, the same room for ids in every row, and the same largest bucket:
    what was admitted must fit. A bucket that was captured once can be used again for nothing. ``fits`` says whether
    buckets, all that were captured and those to come, may be together (device memory); without it they may. Requests
    are held as a count for each size, halved at each look.
    """

    def __init__(self, ladder: BucketLadder, *, fits: Callable[[BucketLadder], bool] | None = None) -> None:
        self._ids_per_row = ladder.ids_max // ladder.rows_max
        if any(bucket.ids != bucket.rows * self._ids_per_row for bucket in ladder.buckets):
            raise ValueError("want buckets with the same room for ids in every row")
        self._rows_max = ladder.rows_max
        self._buckets_max = len(ladder.buckets)
        self._fits = fits
        self._captured = set(ladder.buckets)
        self._counts = [0] * (ladder.rows_max + 1)
        self._seen = 0
        self._looked_ns: int | None = None

    def observe(self, rows: int, ids: int) -> None:
        """A request of so many rows and ids has come. A larger one than the largest bucket counts as its pieces."""
        # With the same room for ids in every row, a bucket has room for both exactly if it has so many rows.
        needed = max(rows, -(-ids // self._ids_per_row))
        self._seen += 1
        if needed > self._rows_max:
            self._counts[-1] += needed // self._rows_max
            needed %= self._rows_max
        # Where nothing remains, this is counted at no rows, which are never looked at.
        self._counts[needed] += 1

    def propose(self, now_ns: int, cost: CostModel, current: BucketLadder) -> BucketLadder | None:
        """A ladder that is expected to cost at least 5% less than ``current``, or None; mostly None, and at once.

        ``current`` has been captured wholly, and ``cost`` knows at least its largest bucket.
        """
        self._captured.update(current.buckets)
        if self._looked_ns is None:
            self._looked_ns = now_ns
        if now_ns - self._looked_ns < REPLAN_EVERY_S * 1_000_000_000 or self._seen < REQUESTS_MIN:
            return None
        self._looked_ns, self._seen = now_ns, 0
        counts = np.array(self._counts, np.int64)
        counts[0] = 0
        self._counts = (counts // 2).tolist()
        return self._better(counts, _curve(cost), current)

    def _better(self, counts: Ints, curve: CostCurve, current: BucketLadder) -> BucketLadder | None:
        rows = np.arange(1, len(counts))
        every = Histogram(rows, counts[1:].astype(np.float64), np.zeros_like(rows))
        enough_us = expected_us(current, every, curve) * (1 - GAIN_MIN)

        def plan(captures: int) -> BucketLadder | None:
            made = plan_ladder(
                self._candidates(counts),
                curve,
                features=self._ids_per_row,
                buckets_max=self._buckets_max,
                memory=lambda bucket: int(bucket not in self._captured),
                memory_max_bytes=captures,
            )
            return made if expected_us(made, every, curve) <= enough_us else None

        # Mostly not even the best ladder is worth it: that is found far sooner than one within a limit.
        if plan(self._buckets_max) is None:
            return None
        room = CAPTURED_MAX_FACTOR * self._buckets_max - len(self._captured)
        for captures in range(min(CAPTURES_AT_ONCE_MAX, room), -1, -1):
            made = plan(captures)
            if made is None or self._fits is None or self._fits(_ladder_of(self._captured.union(made.buckets))):
                return made
        return None

    def _candidates(self, counts: Ints) -> Histogram:
        """The requests by the least size with room for them that may become a bucket, or is one."""
        running = np.cumsum(counts)
        shares = np.searchsorted(running, running[-1] * np.arange(1, CANDIDATES + 1) / CANDIDATES)
        rows = np.unique([*shares.tolist(), *(bucket.rows for bucket in self._captured)])
        return Histogram(rows, np.diff(running[rows], prepend=0).astype(np.float64), np.zeros_like(rows))


def _curve(cost: CostModel) -> CostCurve:
    us = [cost.launch_ns(bucket) / 1e3 for bucket in cost.buckets]
    return CostCurve(np.array([bucket.rows for bucket in cost.buckets]), np.array(us))


def _ladder_of(buckets: Iterable[Bucket]) -> BucketLadder:
    return BucketLadder(tuple(sorted(buckets, key=lambda bucket: bucket.rows)))

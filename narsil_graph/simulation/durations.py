"""How long launches take on the simulated machine."""

from collections.abc import Sequence
from math import exp, log

import numpy as np

from narsil_graph.errors import UsageFailure
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel, LaunchCost

# Standard deviations from the median to the p99 of a normal distribution.
P99_DEVIATIONS = 2.3263
DRAWN_AT_ONCE = 4096


class Durations:
    """How long launches take, by the cost model as it is now: what it learns later does not change the machine."""

    def __init__(self, cost: CostModel, rng: np.random.Generator, *, jitter: bool) -> None:
        self._rng = rng
        self._drawn: list[float] = []
        self._shapes: dict[Bucket, tuple[int, float]] = {}
        for bucket in cost.buckets:
            median_ns = cost.launch_ns(bucket)
            deviation = log(cost.tail_ns(bucket) / median_ns) / P99_DEVIATIONS if jitter else 0.0
            self._shapes[bucket] = (median_ns, deviation)

    def draw(self, bucket: Bucket) -> int:
        """Nanoseconds of one launch."""
        median_ns, deviation = self._shapes[bucket]
        if not deviation:
            return median_ns
        if not self._drawn:
            self._drawn = self._rng.standard_normal(DRAWN_AT_ONCE).tolist()
        return max(1, int(median_ns * exp(deviation * self._drawn.pop())))


def costs_of(
    ladder: BucketLadder, measured: Sequence[tuple[Bucket, LaunchCost]], *, request_ns: int, reply_ns: int
) -> CostModel:
    """The costs of a ladder's buckets: as measured, or on the lines between the measured neighbours.

    `measured` increases in rows. A UsageFailure where the largest bucket lies beyond what was measured.
    """
    rows = [bucket.rows for bucket, _ in measured]
    if ladder.rows_max > rows[-1]:
        raise UsageFailure(f"the costs were measured up to {rows[-1]} rows: nothing is known of {ladder.rows_max}")
    wanted = [bucket.rows for bucket in ladder.buckets]
    medians_ns = np.interp(wanted, rows, [cost.median_ns for _, cost in measured])
    p99s_ns = np.interp(wanted, rows, [cost.p99_ns for _, cost in measured])
    costs = (LaunchCost(round(median), round(p99)) for median, p99 in zip(medians_ns, p99s_ns, strict=True))
    return CostModel(dict(zip(ladder.buckets, costs, strict=True)), request_ns=request_ns, reply_ns=reply_ns)

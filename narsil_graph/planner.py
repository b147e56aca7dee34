"""The bucket ladder that costs least for the sizes of requests that were observed, given what launches cost.

Why boundaries at observed sizes suffice: let a bucket of r rows serve requests of which the largest has s < r rows.
With s rows instead it still covers each of them, and as the cost curve never decreases, it costs no more; nothing else
changes. (A bucket that serves none can be dropped.) So some cheapest ladder has only observed sizes for its buckets,
besides the largest that must be covered. Measured curves do decrease here and there, by noise; a decrease is filled
up to the measurement before it, for a smaller batch can always take the larger bucket but not the reverse.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narsil_graph.errors import Failure
from narsil_graph.ladder_search import Sizes, cheapest
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.launch_plan import LaunchPlan

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# A straight line says little about a launch of more than twice the largest that was measured.
EXTRAPOLATION_MAX = 2
MIB = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class CostCurve:
    """Microseconds f8 of launches of increasing rows i8: linear between them and, by the last two, beyond.

    Below the first it is flat. ``us`` is made non-decreasing. Raises ValueError for values that are no curve.
    """

    rows: Ints
    us: Floats

    def __post_init__(self) -> None:
        if not len(self.rows) == len(self.us) > 0:
            raise ValueError("want as many costs as rows, and at least one")
        if self.rows[0] < 1 or (np.diff(self.rows) <= 0).any() or not (self.us > 0).all():
            raise ValueError("want rows of at least 1 that increase, and positive costs")
        object.__setattr__(self, "us", np.maximum.accumulate(self.us))

    @property
    def rows_max(self) -> int:
        """The most rows whose cost it can tell."""
        return int(self.rows[-1]) * EXTRAPOLATION_MAX

    def at(self, rows: Ints) -> Floats:
        """Microseconds of a launch of each of ``rows``; a Failure beyond ``rows_max``."""
        if (rows > self.rows_max).any():
            raise Failure(
                f"no ladder can be planned to cover {rows.max()} rows by costs that were measured to {self.rows[-1]}: "
                f"measure larger buckets, or have larger requests split with --rows-max {self.rows_max}"
            )
        us = np.interp(rows, self.rows, self.us)
        if len(self.rows) > 1:
            slope = (self.us[-1] - self.us[-2]) / (self.rows[-1] - self.rows[-2])
            us += slope * np.maximum(rows - self.rows[-1], 0)
        return us


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How many requests had each of ``rows`` (i8, increasing), and the most ids that any of these had.

    The last of ``rows`` must be covered; its count, as any other, may be 0.
    """

    rows: Ints
    counts: Floats
    ids_max: Ints

    def __post_init__(self) -> None:
        if not len(self.rows) == len(self.counts) == len(self.ids_max) > 0:
            raise ValueError("want as many counts and ids as rows, and at least one")
        if self.rows[0] < 1 or (np.diff(self.rows) <= 0).any():
            raise ValueError("want rows of at least 1 that increase")
        if (self.counts < 0).any() or not self.counts.any() or (self.ids_max < 0).any():
            raise ValueError("want counts and ids of at least 0, and one request")

    @classmethod
    def of(cls, rows: Ints, ids: Ints, *, rows_max: int | None = None) -> "Histogram":
        """Of one request for each of ``rows`` and ``ids``; to be covered are ``rows_max``, or the most rows observed.

        A larger request is split: into launches of ``rows_max`` and what remains, its ids shared among their rows.
        """
        most = int(rows.max()) if rows_max is None else rows_max
        remains = np.flatnonzero((rows > most) & (rows % most > 0))
        parts = np.concatenate([np.minimum(rows, most), rows[remains] % most])
        times = np.concatenate([np.where(rows > most, rows // most, 1), np.ones(len(remains), np.int64)])
        wholes = np.concatenate([rows, rows[remains]])
        ids = -(-np.concatenate([ids, ids[remains]]) * parts // wholes)
        found, index = np.unique(np.append(parts, most), return_inverse=True)
        counts, ids_max = np.zeros(len(found)), np.zeros(len(found), np.int64)
        np.add.at(counts, index[:-1], times)
        np.maximum.at(ids_max, index[:-1], ids)
        return cls(found, counts, ids_max)

    @property
    def rows_max(self) -> int:
        """What a ladder must cover."""
        return int(self.rows[-1])

    def ladder(self, rows: Ints, *, features: int) -> BucketLadder:
        """Buckets of these rows, each with room for the ids of every request of no more rows, and one per feature.

        So a bucket has room for all that come to it by their rows, and ids never shrink.
        """
        running = np.maximum.accumulate(self.ids_max)
        index = np.searchsorted(self.rows, rows, "right") - 1
        ids = np.maximum(np.where(index < 0, 0, running[index]), rows * features)
        return BucketLadder(tuple(Bucket(int(r), int(i)) for r, i in zip(rows, ids, strict=True)))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a ladder costs for a histogram: microseconds a request, by one launch each, and at best if split.

    ``ideal_us`` is with a bucket for every size; ``padded_rows`` is the rows launched for nothing over those asked for.
    """

    ladder: BucketLadder
    expected_us: float
    split_us: float
    ideal_us: float
    padded_rows: float

    @property
    def over_ideal(self) -> float:
        """The share of the ideal cost that padding adds."""
        return self.expected_us / self.ideal_us - 1


def plan_ladder(
    histogram: Histogram,
    curve: CostCurve,
    *,
    features: int,
    buckets_max: int,
    memory: Callable[[Bucket], int] | None = None,
    memory_max_bytes: int = 0,
    fixed_bytes: int = 0,
) -> BucketLadder:
    """The cheapest ladder of at most ``buckets_max`` buckets that covers the histogram, exactly.

    With ``memory`` its buckets' bytes and ``fixed_bytes`` must not exceed ``memory_max_bytes``; where smaller buckets
    need no more bytes than larger ones, no ladder of other sizes is cheaper either. A Failure where the largest bucket
    alone needs more, or where ``curve`` does not reach it.
    """
    if buckets_max < 1:
        raise ValueError(f"want at least one bucket, got {buckets_max}")
    every = histogram.ladder(histogram.rows, features=features).buckets
    weights = np.array([memory(bucket) if memory else 0 for bucket in every], np.float64)
    sizes = Sizes(curve.at(histogram.rows), histogram.counts, weights)
    room_bytes = memory_max_bytes - fixed_bytes if memory else np.inf
    chosen = cheapest(sizes, boundaries_max=min(buckets_max, len(every)), weight_max=room_bytes)
    if chosen is None:
        need_mib = (weights[-1] + fixed_bytes) / MIB
        raise Failure(
            f"{memory_max_bytes / MIB:.1f} MiB of memory are less than the {need_mib:.1f} MiB "
            f"that one bucket of {histogram.rows_max} rows needs"
        )
    return histogram.ladder(histogram.rows[chosen], features=features)


def power_of_two_ladder(histogram: Histogram, *, features: int, buckets_max: int) -> BucketLadder:
    """The plain ladder: 1, 2, 4 and on to the largest to be covered, of which the largest ``buckets_max`` are kept.

    Its last bucket is what must be covered, not the power of two above: nobody would pay for rows that never come.
    """
    powers = 2 ** np.arange((histogram.rows_max - 1).bit_length(), dtype=np.int64)
    rows = np.append(powers, histogram.rows_max)[-buckets_max:]
    return histogram.ladder(rows, features=features)


def expected_us(ladder: BucketLadder, histogram: Histogram, curve: CostCurve) -> float:
    """Microseconds a request where each is one launch of the smallest bucket with room for its rows."""
    us = curve.at(_rows(ladder))[np.searchsorted(_rows(ladder), histogram.rows)]
    return float(histogram.counts @ us / histogram.counts.sum())


def assess(ladder: BucketLadder, histogram: Histogram, curve: CostCurve) -> Plan:
    """What ``ladder`` costs, which covers the histogram's rows."""
    rows = _rows(ladder)
    launched = rows[np.searchsorted(rows, histogram.rows)]
    return Plan(
        ladder=ladder,
        expected_us=expected_us(ladder, histogram, curve),
        split_us=_split_us(ladder, histogram, curve),
        ideal_us=float(histogram.counts @ curve.at(histogram.rows) / histogram.counts.sum()),
        padded_rows=float(histogram.counts @ launched / (histogram.counts @ histogram.rows)) - 1,
    )


def _split_us(ladder: BucketLadder, histogram: Histogram, curve: CostCurve) -> float:
    """Microseconds a request where each runs as the cheapest launches that the batcher may split it into."""
    launches_ns = [max(round(us * 1e3), 1) for us in curve.at(_rows(ladder)).tolist()]
    launches = [LaunchCost(each_ns, each_ns) for each_ns in launches_ns]
    plan = LaunchPlan(ladder, CostModel(dict(zip(ladder.buckets, launches, strict=True))))
    work_ns = np.array([plan.work_ns(rows) for rows in histogram.rows.tolist()])
    return float(histogram.counts @ work_ns / histogram.counts.sum()) / 1e3


def _rows(ladder: BucketLadder) -> Ints:
    return np.array([bucket.rows for bucket in ladder.buckets], np.int64)

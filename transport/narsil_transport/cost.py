"""What a launch costs: measured once per bucket, and followed while serving. Pure: told what a launch took."""

from collections.abc import Mapping
from dataclasses import dataclass

from narsil_transport.buckets import Bucket

# One observation moves an estimate by an eighth: a change of load is followed within some twenty launches.
WEIGHT = 8
# What counts at most of one observation, in estimates: a launch that was interrupted says little of the next.
OUTLIER = 4
# Estimates that moved by a tenth since they last counted as changed are worth a new plan.
DRIFT = 10


@dataclass(frozen=True, slots=True)
class LaunchCost:
    """Nanoseconds from filling a bucket to reading its scores: the median and the 99th percentile."""

    median_ns: int
    p99_ns: int

    def __post_init__(self) -> None:
        if not 0 < self.median_ns <= self.p99_ns:
            raise ValueError(f"want 0 < median <= p99, got {self.median_ns} and {self.p99_ns} ns")


@dataclass(slots=True, eq=False)
class _Estimate:
    cost: LaunchCost
    now_ns: float
    counted_ns: float


class CostModel:
    """An estimate per bucket, which starts at the measured median and follows what launches take.

    A bucket that is not launched follows the others: what slows one launch, such as a busy neighbour, slows all, and a
    bucket that looked dear for a moment must not be avoided for good. `request_ns` and `reply_ns` are what the server's
    loop spends on receiving and admitting, and on answering, one request; they are followed in the same way, unless
    they are 0. `revision` grows whenever a bucket's estimate has moved by more than 10%, or was replaced.
    """

    def __init__(self, measured: Mapping[Bucket, LaunchCost], *, request_ns: int = 0, reply_ns: int = 0) -> None:
        if request_ns < 0 or reply_ns < 0:
            raise ValueError(f"want costs of a request of at least 0, got {request_ns} and {reply_ns} ns")
        self.request_ns = request_ns
        self.reply_ns = reply_ns
        self.revision = 0
        self._estimates: dict[Bucket, _Estimate] = {}
        self._drift = 1.0
        self._turns: list[_Estimate] = []
        self._turn = 0
        for bucket, cost in measured.items():
            self.add(bucket, cost)

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The buckets whose cost is known, smallest first."""
        return tuple(sorted(self._estimates, key=lambda bucket: (bucket.rows, bucket.ids)))

    def add(self, bucket: Bucket, cost: LaunchCost) -> None:
        """Know one more bucket, or know it anew."""
        self._estimates[bucket] = _Estimate(cost, cost.median_ns, cost.median_ns)
        self._turns = list(self._estimates.values())
        self.revision += 1

    def launch_ns(self, bucket: Bucket) -> int:
        """What a launch of this bucket usually takes now; KeyError for a bucket that was not measured."""
        return round(self._estimates[bucket].now_ns)

    def tail_ns(self, bucket: Bucket) -> int:
        """What 99 of 100 launches of this bucket take at most: as measured, and as much slower as they are now."""
        found = self._estimates[bucket]
        return round(found.cost.p99_ns * found.now_ns / found.cost.median_ns)

    def observe(self, bucket: Bucket, taken_ns: int) -> None:
        """A launch of this bucket took so long."""
        seen = self._estimates[bucket]
        counted_ns = max(1, min(taken_ns, OUTLIER * seen.now_ns))
        self._drift += (counted_ns / seen.cost.median_ns - self._drift) / WEIGHT
        self._move(seen, counted_ns)
        self._turn = (self._turn + 1) % len(self._turns)
        other = self._turns[self._turn]
        if other is not seen:
            self._move(other, other.cost.median_ns * self._drift)

    def observe_requests(self, count: int, taken_ns: int) -> None:
        """So many requests took the loop so long, together."""
        self.request_ns = followed(self.request_ns, count, taken_ns)

    def observe_replies(self, count: int, taken_ns: int) -> None:
        """So many replies took the loop so long, together."""
        self.reply_ns = followed(self.reply_ns, count, taken_ns)

    def _move(self, estimate: _Estimate, to_ns: float) -> None:
        estimate.now_ns += (to_ns - estimate.now_ns) / WEIGHT
        if abs(estimate.now_ns - estimate.counted_ns) * DRIFT > estimate.counted_ns:
            estimate.counted_ns = estimate.now_ns
            self.revision += 1

    def to_dict(self) -> dict[str, object]:
        """Microseconds: the loop's part of a request, and per bucket the measured median, p99 and the estimate now."""
        return {
            "request_us": self.request_ns / 1e3,
            "reply_us": self.reply_ns / 1e3,
            "buckets": [
                {
                    "rows": bucket.rows,
                    "ids": bucket.ids,
                    "median_us": self._estimates[bucket].cost.median_ns / 1e3,
                    "p99_us": self._estimates[bucket].cost.p99_ns / 1e3,
                    "now_us": self.launch_ns(bucket) / 1e3,
                }
                for bucket in self.buckets
            ],
        }


def followed(now_ns: int, count: int, taken_ns: int) -> int:
    """The estimate of one of `count` that took `taken_ns` together, moved as a bucket's is."""
    if not count:
        return now_ns
    return now_ns + (min(taken_ns // count, OUTLIER * now_ns) - now_ns) // WEIGHT

"""What arrives, and when: drawn from a model by seed, or recorded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from narsil_graph.errors import UsageFailure
from narsil_graph.trace import Trace
from narsil_transport.buckets import BucketLadder

Int64s = npt.NDArray[np.int64]
Sizes = Callable[[np.random.Generator, int], Int64s]
"""Draws the rows of so many requests."""

# Of the sizes in MLPerf's DLRM trace. Its published sample of 100 has these seven sizes in about these shares;
# they are rounded here so that the mean is the benchmark's 270: an approximation of its quantile file, not a copy.
MLPERF_ROWS = np.arange(100, 701, 100)
MLPERF_SHARES = (0.10, 0.60, 0.10, 0.05, 0.06, 0.03, 0.06)
# What `serve` takes by default.
ROWS_MAX = 4096
# A bursty source's calm lasts ten times as long as its bursts, which are ten times as dense.
CALM_S, BURST_S, BURST_RATIO = 0.5, 0.05, 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """Requests in order of arrival: int64 [n] each, `bulk` bool [n]; a `deadline_us` of 0 is none."""

    arrival_ns: Int64s
    rows: Int64s
    ids: Int64s
    deadline_us: Int64s
    bulk: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        columns = (self.arrival_ns, self.rows, self.ids, self.deadline_us, self.bulk)
        if {len(column) for column in columns} != {len(self.arrival_ns)}:
            raise ValueError(f"want columns of one length, got {[len(column) for column in columns]}")
        if np.any(np.diff(self.arrival_ns) < 0):
            raise ValueError("want arrivals in their order")
        if len(self) and (self.rows.min() < 1 or self.ids.min() < 0 or self.deadline_us.min() < 0):
            raise ValueError("want requests of at least one row, and neither ids nor deadlines below 0")

    def __len__(self) -> int:
        return len(self.arrival_ns)

    @classmethod
    def drawn(
        cls, arrival_ns: Int64s, rows: Int64s, *, ids_per_row: int, deadline_us: int = 0, bulk: bool = False
    ) -> "Arrivals":
        """Requests of `ids_per_row` ids a row, all with one deadline and one priority."""
        count = len(arrival_ns)
        return cls(arrival_ns, rows, rows * ids_per_row, np.full(count, deadline_us), np.full(count, bulk))

    @classmethod
    def recorded(cls, trace: Trace) -> "Arrivals":
        """A trace's requests, the first at 0, whatever became of them there."""
        records = trace.records
        arrival_ns = records["arrival_ns"].astype(np.int64)
        rows, ids, deadline_us = (records[name].astype(np.int64) for name in ("rows", "ids", "deadline_us"))
        return cls(arrival_ns - arrival_ns[:1], rows, ids, deadline_us, records["bulk"].astype(np.bool_))

    def scaled(self, rate_scale: float) -> "Arrivals":
        """The same requests, `rate_scale` times as fast."""
        arrival_ns = (self.arrival_ns / rate_scale).astype(np.int64)
        return Arrivals(arrival_ns, self.rows, self.ids, self.deadline_us, self.bulk)

    def within(self, deadline_us: int) -> "Arrivals":
        """With this deadline for interactive requests that have none, as admission gives it; 0 changes nothing."""
        given = np.where((self.deadline_us == 0) & ~self.bulk, deadline_us, self.deadline_us)
        return Arrivals(self.arrival_ns, self.rows, self.ids, given, self.bulk)

    def refuse_uncovered(self, ladder: BucketLadder, *, queue_rows_max: int) -> None:
        """A UsageFailure where the largest request could never be launched. Beyond the largest bucket it is split."""
        if not len(self):
            raise UsageFailure("no request arrives: want a higher rate or more seconds")
        row_ids = -(-self.ids // self.rows)
        largest = int(row_ids.argmax())
        if row_ids[largest] > ladder.ids_max:
            raise UsageFailure(
                f"the ladder's largest bucket holds {ladder.ids_max} ids: "
                f"it cannot cover a request of {self.ids[largest]} ids in {self.rows[largest]} rows"
            )
        if self.rows.max() > queue_rows_max:
            raise UsageFailure(f"a queue of {queue_rows_max} rows cannot take a request of {self.rows.max()}")

    def part(self, chosen: slice) -> "Arrivals":
        """Some of the requests."""
        return Arrivals(
            self.arrival_ns[chosen], self.rows[chosen], self.ids[chosen], self.deadline_us[chosen], self.bulk[chosen]
        )


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Clients that each wait for their answer, think for an exponentially drawn time, and ask again until `seconds`."""

    clients: int
    think_us: float
    seconds: float
    sizes: Sizes
    ids_per_row: int
    deadline_us: int = 0

    def __post_init__(self) -> None:
        # A client that is refused and does not think would ask again at once, for ever.
        if self.clients < 1 or self.think_us <= 0 or self.seconds <= 0:
            raise ValueError("want a client at least, and a time to think and a duration above 0")


def poisson_ns(rng: np.random.Generator, pieces: Sequence[tuple[float, float]]) -> Int64s:
    """Arrival times of a Poisson process whose rate is constant over each of `pieces`: (requests/s, seconds)."""
    found: list[npt.NDArray[np.float64]] = []
    begin_s = 0.0
    for rate, seconds in pieces:
        # Given their number, the arrivals of a Poisson process are uniform.
        found.append(begin_s + seconds * np.sort(rng.random(rng.poisson(rate * seconds))))
        begin_s += seconds
    return (np.concatenate(found) * 1e9).astype(np.int64)


def bursty_ns(rng: np.random.Generator, rate: float, seconds: float) -> Int64s:
    """Arrival times of a two-state Markov-modulated Poisson process with this mean rate."""
    calm_rate = rate * (CALM_S + BURST_S) / (CALM_S + BURST_S * BURST_RATIO)
    pieces: list[tuple[float, float]] = []
    left_s = seconds
    while left_s > 0:
        burst = len(pieces) % 2 == 1
        lasts_s = min(left_s, float(rng.exponential(BURST_S if burst else CALM_S)))
        pieces.append((calm_rate * (BURST_RATIO if burst else 1.0), lasts_s))
        left_s -= lasts_s
    return poisson_ns(rng, pieces)


def constant(rows: int) -> Sizes:
    return lambda rng, count: np.full(count, rows, np.int64)


def lognormal(median: float, sigma: float, rows_max: int = ROWS_MAX) -> Sizes:
    """Rounded to whole rows, from 1 to `rows_max`."""

    def draw(rng: np.random.Generator, count: int) -> Int64s:
        drawn = np.rint(median * np.exp(sigma * rng.standard_normal(count)))
        return np.clip(drawn, 1, rows_max).astype(np.int64)

    return draw


def mlperf() -> Sizes:
    """The shape of MLPerf's DLRM requests: 100 to 700 rows, 270 on average."""
    return lambda rng, count: rng.choice(MLPERF_ROWS, count, p=MLPERF_SHARES).astype(np.int64)


def parse_sizes(text: str) -> Sizes:
    """`constant:ROWS`, `lognormal:MEDIAN:SIGMA[:MAX]` or `mlperf`; raises UsageFailure."""
    kind, *numbers = text.split(":")
    try:
        if kind == "mlperf" and not numbers:
            return mlperf()
        if kind == "constant" and len(numbers) == 1 and (rows := int(numbers[0])) >= 1:
            return constant(rows)
        if kind == "lognormal" and len(numbers) in (2, 3):
            median, sigma = float(numbers[0]), float(numbers[1])
            rows_max = int(numbers[2]) if len(numbers) == 3 else ROWS_MAX
            if 0 < median < np.inf and 0 <= sigma < np.inf and rows_max >= 1:
                return lognormal(median, sigma, rows_max)
    except ValueError:
        pass
    raise UsageFailure(f"want --sizes constant:ROWS, lognormal:MEDIAN:SIGMA[:MAX] or mlperf, got {text!r}")

"""Short blocks of load, in turn on A and on B."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from narsil_graph.bench.cpu_seconds import cpu_seconds
from narsil_graph.bench.driver import closed_loop, open_loop
from narsil_graph.bench.log import Floats64, Log
from narsil_graph.bench.requests import RequestPool
from narsil_graph.bench.subject import LOST, OK, TIMEOUT, Subject
from narsil_graph.errors import Failure, UsageFailure
from narsil_graph.simulation.arrivals import Int64s, poisson_ns

# Of each block, before it counts: the other server has had the caches meanwhile.
LEAD_SHARE = 0.1
BLOCKS_PER_ROUND = 4


@dataclass(frozen=True, slots=True)
class Load:
    """What each block asks: so many requests always under way, or with a `rate` Poisson arrivals per second."""

    in_flight: int
    rate: float | None
    block_s: float

    def __post_init__(self) -> None:
        if self.in_flight < 1 or self.block_s <= 0 or (self.rate is not None and self.rate <= 0):
            raise ValueError("want a request in flight, and a block and a rate above 0")

    @property
    def round_s(self) -> float:
        return BLOCKS_PER_ROUND * (1 + LEAD_SHARE) * self.block_s


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """A variant that is asked: its connection and its processes, if they are known."""

    name: str
    subject: Subject
    pids: Sequence[int]


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A variant's blocks of one round. `latency_us` [n] has what was scored or ended as TIMEOUT or LOST."""

    latency_us: Floats64
    statuses: Mapping[str, int]
    samples_per_s: float
    cpu_s_per_million: float | None

    @classmethod
    def of(cls, name: str, log: Log, cpu_s: float | None) -> "Measured":
        """A Failure if nothing was scored."""
        statuses = Counter(log.statuses)
        if not log.rows_ok:
            said = ", ".join(f"{count} {status}" for status, count in statuses.items()) or "it took no request"
            raise Failure(f"{name} scored nothing in a block: {said}")
        # A refusal is quick: among the latencies it would make a server look better.
        lasting = np.array([status in (OK, TIMEOUT, LOST) for status in log.statuses], np.bool_)
        cpu = None if cpu_s is None else cpu_s / log.rows_ok * 1e6
        return cls(log.latency_us[lasting], statuses, log.samples_per_s, cpu)

    def values(self) -> dict[str, float]:
        """What is compared, by the names of `verdict.RATIOS`."""
        p50, p99 = np.percentile(self.latency_us, (50, 99))
        found = {"p50": float(p50), "p99": float(p99), "throughput": self.samples_per_s}
        return found | ({"cpu": self.cpu_s_per_million} if self.cpu_s_per_million else {})


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """Two blocks of each, in the order ABBA or BAAB: what grows steadily meanwhile has hit both alike."""

    a: Measured
    b: Measured

    def log_ratios(self) -> dict[str, float]:
        """Of B over A, of what both have."""
        of_a, of_b = self.a.values(), self.b.values()
        return {name: log(of_b[name] / of_a[name]) for name in of_a if name in of_b}


def run_round(a: Side, b: Side, pool: RequestPool, load: Load, rng: np.random.Generator) -> Round:
    """Both blocks of a pair have the same requests, at the same times if these are drawn."""
    logs: dict[str, list[Log]] = {"a": [], "b": []}
    cpu_s = dict.fromkeys(logs, 0.0)
    order = "abba" if rng.random() < 0.5 else "baab"
    for pair in (order[:2], order[2:]):
        begin_number = int(rng.integers(len(pool)))
        arrival_ns = None if load.rate is None else poisson_ns(rng, [(load.rate, load.block_s)])
        for which in pair:
            side = a if which == "a" else b
            log, cpu = _block(side, pool, load, begin_number, arrival_ns)
            logs[which].append(log)
            cpu_s[which] += cpu
    return Round(
        *(
            Measured.of(side.name, Log.joined(logs[which]), cpu_s[which] if side.pids else None)
            for which, side in (("a", a), ("b", b))
        )
    )


def _block(
    side: Side, pool: RequestPool, load: Load, begin_number: int, arrival_ns: Int64s | None
) -> tuple[Log, float]:
    # From elsewhere in the pool, so that the block's own first requests are not warm.
    lead_number = begin_number + len(pool) // 2
    lead_in_flight = load.in_flight if arrival_ns is None else 1
    closed_loop(side.subject, pool, lead_in_flight, LEAD_SHARE * load.block_s, begin_number=lead_number)
    before_s = _cpu_s(side)
    if arrival_ns is None:
        found = closed_loop(side.subject, pool, load.in_flight, load.block_s, begin_number=begin_number)
    else:
        found = open_loop(side.subject, pool, arrival_ns, begin_number=begin_number)
    return found, _cpu_s(side) - before_s


def _cpu_s(side: Side) -> float:
    try:
        return cpu_seconds(side.pids)
    except UsageFailure:
        raise Failure(f"a process of {side.name} has ended") from None


def run_rounds(
    sides: tuple[Side, Side],
    pool: RequestPool,
    load: Load,
    rng: np.random.Generator,
    *,
    rounds_min: int,
    until_s: float,
    tell: Callable[[str], None],
) -> list[Round]:
    """As many as end before `until_s` on the monotonic clock, and at least so many."""
    found: list[Round] = []
    while len(found) < rounds_min or time.monotonic() + load.round_s <= until_s:
        found.append(run_round(*sides, pool, load, rng))
        tell(f"{sides[0].name} and {sides[1].name}: {BLOCKS_PER_ROUND // 2 * len(found)} blocks each")
    return found

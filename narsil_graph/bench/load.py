"""One load after the other over one connection: drawn, recorded, closed, or as much as keeps a promise."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from narsil_graph.bench.cpu_seconds import cpu_seconds
from narsil_graph.bench.driver import DRAIN_S, closed_loop, open_loop
from narsil_graph.bench.find_max import Found, find_max
from narsil_graph.bench.load_result import LoadResult
from narsil_graph.bench.log import Log
from narsil_graph.bench.requests import RequestPool
from narsil_graph.bench.subject import LOST, TIMEOUT, Subject
from narsil_graph.errors import Failure, UsageFailure
from narsil_graph.simulation.arrivals import Arrivals, Int64s, bursty_ns, poisson_ns
from narsil_graph.trace import read_trace

# Of a search for the highest load: what keeps a server busy shows what an open loop cannot exceed for long.
CAPACITY_IN_FLIGHT, CAPACITY_S = 64, 1.0
LOW_SHARE, HIGH_SHARE = 0.125, 1.5
# The p99 of fewer is but their largest. A confirmation lasts so many times as long as a trial.
TRIAL_REQUESTS_MIN, CONFIRM_TIMES = 100, 3

Times = Callable[[float, int], Int64s]
"""Draws arrivals, in ns from 0, over so many seconds by a seed."""


def drawn(kind: str, rate: float) -> Times:
    """`poisson`, `fixed` or `bursty` arrivals of so many requests per second."""

    def times(seconds: float, seed: int) -> Int64s:
        if kind == "fixed":
            return (np.arange(round(rate * seconds)) * (1e9 / rate)).astype(np.int64)
        rng = np.random.default_rng(seed)
        return poisson_ns(rng, [(rate, seconds)]) if kind == "poisson" else bursty_ns(rng, rate, seconds)

    return times


def recorded(path: Path, rate_scale: float, seconds: float | None) -> Arrivals:
    """The requests of a trace file, so many times as fast, all or those of its first seconds."""
    arrivals = Arrivals.recorded(read_trace(path)).scaled(rate_scale)
    return arrivals if seconds is None else arrivals.part(slice(0, _before(arrivals.arrival_ns, seconds)))


class Loader:
    """Each load comes after a warm-up like it, which is not counted, and asks the same. `log` is that of the last.

    `timeout_s` is after how long the subject gives a request up, and `pids` are whose CPU time is counted.
    """

    def __init__(
        self,
        subject: Subject,
        pool: RequestPool,
        *,
        seed: int,
        warm_up_s: float,
        timeout_s: float,
        pids: Sequence[int],
    ) -> None:
        self._subject = subject
        self._pool = pool
        self._seed = seed
        self._warm_up_s = warm_up_s
        self._drain_s = max(DRAIN_S, 2 * timeout_s)
        self._pids = pids
        self.log = Log()

    def closed(self, in_flight: int, seconds: float) -> LoadResult:
        if self._warm_up_s:
            self._closed(in_flight, self._warm_up_s)
        return self._counted(lambda: self._closed(in_flight, seconds))

    def open(self, times: Times, seconds: float) -> LoadResult:
        # Of another seed, for the counted requests should not be those that are still warm.
        if self._warm_up_s:
            self._open(times(self._warm_up_s, self._seed + 1))
        return self._counted_open(times(seconds, self._seed))

    def recorded(self, arrival_ns: Int64s) -> LoadResult:
        """At these times, the pool's first request at the first; what comes first warms up."""
        self._open(arrival_ns[: _before(arrival_ns, self._warm_up_s)])
        return self._counted_open(arrival_ns)

    def find_max(self, kind: str, slo_p99_us: float, seconds: float, say: Callable[[str], None]) -> Found:
        """The highest rate that meets the objective, by trials of at least so many seconds.

        A Failure where a trial has no answer at all, not even a refusal: so it would be with all that follow.
        """
        capacity = self._closed(CAPACITY_IN_FLIGHT, min(CAPACITY_S, seconds)).requests_per_s
        if not capacity:
            raise Failure("no request was answered")
        say(f"{capacity:.1f} requests/s with {CAPACITY_IN_FLIGHT} always under way")

        def measure(rate: float, times: int) -> LoadResult:
            lasting_s = times * max(seconds, TRIAL_REQUESTS_MIN / rate)
            result = self.open(drawn(kind, rate), lasting_s)
            p99 = "none" if result.slo_p99_us is None else f"{result.slo_p99_us:.0f} us"
            say(f"{rate:10.1f} requests/s for {lasting_s:.3g} s: p99 {p99}")
            if result.statuses.keys() <= {TIMEOUT, LOST}:
                raise Failure("the server has stopped answering")
            return result

        return find_max(
            lambda rate: measure(rate, 1),
            slo_p99_us,
            capacity * LOW_SHARE,
            capacity * HIGH_SHARE,
            confirm=lambda rate: measure(rate, CONFIRM_TIMES),
        )

    def _closed(self, in_flight: int, seconds: float) -> Log:
        return closed_loop(self._subject, self._pool, in_flight, seconds, drain_s=self._drain_s)

    def _open(self, arrival_ns: Int64s) -> Log:
        return open_loop(self._subject, self._pool, arrival_ns, drain_s=self._drain_s)

    def _counted_open(self, arrival_ns: Int64s) -> LoadResult:
        if not len(arrival_ns):
            raise UsageFailure("no request arrives: want a higher rate or more seconds")
        return self._counted(lambda: self._open(arrival_ns))

    def _counted(self, run: Callable[[], Log]) -> LoadResult:
        begin_s = cpu_seconds(self._pids)
        self.log = run()
        cpu_s: float | None = None
        # What has been measured is told, also of a server that has ended meanwhile.
        with suppress(UsageFailure):
            cpu_s = cpu_seconds(self._pids) - begin_s if self._pids else None
        return LoadResult.of(self.log, cpu_s=cpu_s)


def _before(arrival_ns: Int64s, seconds: float) -> int:
    return int(np.searchsorted(arrival_ns, int(seconds * 1e9)))

"""A load in numbers: what was asked, what was answered, how late, and where the time went."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from narsil_graph.bench.log import Floats64, Log
from narsil_graph.bench.subject import LOST, OK, TIMEOUT
from narsil_graph.errors import Failure

# What latencies are counted in: to 3 digits, the longest a minute.
LATENCY_US_MAX, DIGITS = 60_000_000, 3
SHARES = (0.5, 0.9, 0.99, 0.999)
# As a person reads them, and of how many answers at least: of fewer, p99.9 is another word for the largest.
PERCENTILES = {"p50": ("p50", 1), "p90": ("p90", 10), "p99": ("p99", 100), "p999": ("p99.9", 1000)}
# A server that leaves requests without any answer for so long, until the end, may have gone.
SILENT_S = 1.0
STAGES = ("client", "wire", "queue", "fill", "replay", "read", "reply")


@dataclass(frozen=True, slots=True)
class Spread:
    """A time in microseconds."""

    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What came of a load; None where there is nothing to tell of.

    Latencies are those of answered requests: `latency` from when one was to be sent, `naive` from when it was.
    `slo_p99_us` is the p99 of all requests, in which one that has failed is later than any. `silent_s` is how long the
    load lasted after the last answer, be it a refusal. `stages` add up to the latency in their means: `client` is the
    wait to be sent, `wire` the round trip outside the server, `queue` to `read` are the server's own, and `reply` is
    what is left of its time. `hdr` is the latencies' HdrHistogram, encoded.
    """

    requests: int
    seconds: float
    silent_s: float
    offered_per_s: float
    answered_per_s: float
    rows_per_s: float
    statuses: Mapping[str, int]
    variants: Mapping[str, int]
    latency: Spread | None
    naive: Spread | None
    slo_p99_us: float | None
    stages: Mapping[str, Spread]
    cpu_s_per_million_rows: float | None
    hdr: str

    @classmethod
    def of(cls, log: Log, *, cpu_s: float | None = None) -> Self:
        """`cpu_s` is what the server's processes used of a processor meanwhile. A Failure without hdrhistogram."""
        ok = log.ok
        latency_us, intended_ns = log.latency_us[ok], log.intended_ns
        span_s = float(np.ptp(intended_ns)) / 1e9 if len(log) else 0.0
        every = _spread(np.where(ok, log.latency_us, np.inf))
        stages = stages_of(log)
        return cls(
            requests=len(log),
            seconds=log.seconds,
            silent_s=_silent_s(log),
            offered_per_s=(len(log) - 1) / span_s if span_s else 0.0,
            answered_per_s=log.requests_per_s,
            rows_per_s=log.samples_per_s,
            statuses=dict(sorted(Counter(log.statuses).items())),
            variants=dict(sorted(Counter(name for name in log.variants if name is not None).items())),
            latency=_spread(latency_us),
            naive=_spread(log.naive_us[ok]),
            slo_p99_us=every.p99 if every is not None and every.p99 < np.inf else None,
            stages={name: found for name, times in stages.items() if (found := _spread(times)) is not None},
            cpu_s_per_million_rows=None if cpu_s is None or not log.rows_ok else cpu_s / log.rows_ok * 1e6,
            hdr=histogram_of(latency_us).encode().decode(),
        )

    def meets(self, slo_p99_us: float) -> bool:
        """Whether 99% of all requests were answered within this."""
        return self.slo_p99_us is not None and self.slo_p99_us <= slo_p99_us

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def text(self) -> str:
        """Lines for a person."""
        failed = ", ".join(f"{count} {name}" for name, count in self.statuses.items() if name != OK)
        lines = {
            "requests": f"{self.requests} in {self.seconds:.2f} s: {self.offered_per_s:.1f}/s offered, "
            f"{self.answered_per_s:.1f}/s answered, {self.rows_per_s:.0f} rows/s",
            "failed": failed or "none",
            "latency": self._text_of(self.latency),
            "naive": f"{self._text_of(self.naive)}  (from the sending, which hides waiting)",
        }
        if self.silent_s > SILENT_S:
            lines["silent"] = f"what was under way or due had no answer for the last {self.silent_s:.2f} s"
        if self.variants:
            lines["variants"] = ", ".join(f"{count} {name}" for name, count in self.variants.items())
        if self.cpu_s_per_million_rows is not None:
            lines["server"] = f"{self.cpu_s_per_million_rows:.2f} CPU seconds per million rows"
        head = [f"{name:<10}{text}" for name, text in lines.items()]
        return "\n".join([*head, *self._table()])

    def _text_of(self, spread: Spread | None) -> str:
        """Without a percentile that would be but the largest of too few."""
        if spread is None:
            return "-"
        values = asdict(spread)
        answered = self.statuses.get(OK, 0)
        told = [f"{name} {values[key]:.0f}" for key, (name, least) in PERCENTILES.items() if answered >= least]
        return ", ".join([*told, f"max {spread.max:.0f}", f"mean {spread.mean:.0f} us"])

    def _table(self) -> list[str]:
        if not self.stages:
            return []
        whole = sum(spread.mean for spread in self.stages.values())
        lines = [f"{'stage':<10}{'mean us':>10}{'share':>8}{'p50 us':>10}{'p99 us':>10}"]
        for name, spread in self.stages.items():
            share = spread.mean / whole if whole else 0.0
            lines.append(f"{name:<10}{spread.mean:>10.1f}{share:>8.1%}{spread.p50:>10.1f}{spread.p99:>10.1f}")
        return lines


def histogram_of(latency_us: Floats64) -> Any:
    """An HdrHistogram of these; a Failure where the package is not installed."""
    try:
        from hdrh.histogram import HdrHistogram
    except ImportError:
        raise Failure("bench needs hdrhistogram: pip install 'narsil-graph[bench]'") from None
    histogram = HdrHistogram(1, LATENCY_US_MAX, DIGITS)
    # By distinct values, for it takes one at a time.
    values, counts = np.unique(np.clip(np.rint(latency_us), 0, LATENCY_US_MAX).astype(np.int64), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    return histogram


def stages_of(log: Log) -> dict[str, Floats64]:
    """Microseconds of each stage, of the answered requests; empty where the server told nothing of its time."""
    times = log.times
    told = log.ok & ~np.isnan(times[:, -1])
    if not told.any():
        return {}
    round_trip_us = log.naive_us[told]
    queue_us, fill_us, launch_us, read_us, server_us = times[told].T
    rest_us = server_us - (queue_us + fill_us + launch_us + read_us)
    client_us = log.latency_us[told] - round_trip_us
    columns = client_us, round_trip_us - server_us, queue_us, fill_us, launch_us, read_us, rest_us
    return dict(zip(STAGES, columns, strict=True))


def _silent_s(log: Log) -> float:
    answered = np.array([status not in (TIMEOUT, LOST) for status in log.statuses], np.bool_)
    if not answered.any():
        return log.seconds
    return float(log.done_ns.max() - log.done_ns[answered].max()) / 1e9


def _spread(times_us: Floats64) -> Spread | None:
    if not len(times_us):
        return None
    p50, p90, p99, p999 = np.quantile(times_us, SHARES, method="inverted_cdf").tolist()
    return Spread(float(times_us.mean()), p50, p90, p99, p999, float(times_us.max()))

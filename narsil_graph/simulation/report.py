"""A simulation in numbers: text, JSON, a plot."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from narsil_graph.errors import Failure
from narsil_graph.simulation.outcome import Outcome
from narsil_transport.status import Status

# Points of a plotted line: beyond them a picture grows and shows no more.
POINTS_MAX = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What came of a simulation, None where nothing was answered; percentiles are of answered requests.

    Latencies run from arrival, `server_us_*` from receipt by the loop, from where deadlines count too: `late` are those
    whose scores came after it, and goodput is without them. `fill` is the share of launched rows that were asked for,
    `padding` what the others add to these, and `busy` the share of time in which a lane runs a launch.
    """

    requests: int
    seconds: float
    requests_per_s: float
    rows_per_s: float
    goodput_per_s: float
    answered: int
    late: int
    refused: Mapping[str, int]
    latency_us_p50: float | None
    latency_us_p99: float | None
    latency_us_p999: float | None
    server_us_p50: float | None
    server_us_p99: float | None
    refusal_us_p99: float | None
    launches: int
    fill: float | None
    padding: float | None
    busy: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def summarise(outcome: Outcome, *, seconds: float | None = None) -> Summary:
    """The numbers of `outcome`, over `seconds` or from the first arrival to the last reply."""
    requests, launches = outcome.requests, outcome.launches
    answered = requests["status"] == Status.OK
    in_time = answered & ~is_late(outcome)
    if seconds is None:
        seconds = max(1, int(requests["answered_ns"].max() - requests["arrival_ns"].min())) / 1e9
    names = {status.name: int(np.count_nonzero(requests["status"] == status)) for status in Status if status}
    latency_us, server_us = outcome.latency_ns / 1e3, outcome.server_ns / 1e3
    asked, launched = int(launches["rows"].sum()), int(launches["bucket_rows"].sum())
    busy_s = float((launches["end_ns"] - launches["begin_ns"]).sum()) / 1e9
    return Summary(
        requests=len(requests),
        seconds=seconds,
        requests_per_s=np.count_nonzero(answered) / seconds,
        rows_per_s=float(requests["rows"][answered].sum()) / seconds,
        goodput_per_s=np.count_nonzero(in_time) / seconds,
        answered=int(np.count_nonzero(answered)),
        late=int(np.count_nonzero(answered & ~in_time)),
        refused={name: count for name, count in names.items() if count},
        latency_us_p50=_quantile(latency_us[answered], 0.5),
        latency_us_p99=_quantile(latency_us[answered], 0.99),
        latency_us_p999=_quantile(latency_us[answered], 0.999),
        server_us_p50=_quantile(server_us[answered], 0.5),
        server_us_p99=_quantile(server_us[answered], 0.99),
        refusal_us_p99=_quantile(server_us[~answered], 0.99),
        launches=len(launches),
        fill=asked / launched if launched else None,
        padding=launched / asked - 1 if asked else None,
        busy=min(1.0, busy_s / (seconds * outcome.lanes)),
    )


def is_late(outcome: Outcome) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """bool [requests]: which had their reply after their deadline."""
    deadline_ns = outcome.requests["deadline_us"].astype(np.int64) * 1000
    return (deadline_ns > 0) & (outcome.server_ns > deadline_ns)


def _quantile(values: np.ndarray[Any, np.dtype[np.float64]], share: float) -> float | None:
    return float(np.quantile(values, share)) if len(values) else None


def text_of(summary: Summary) -> str:
    """Lines for a person."""
    refused = sum(summary.refused.values())
    statuses = ", ".join(f"{count} {name}" for name, count in summary.refused.items())
    lines = {
        "requests": f"{summary.requests} in {summary.seconds:.3f} s",
        "answered": f"{summary.answered}: {summary.requests_per_s:.0f} requests/s, {summary.rows_per_s:.0f} rows/s",
        "in time": f"{summary.goodput_per_s:.0f} requests/s; {summary.late} late",
        "refused": f"{refused} ({statuses}), p99 {_us(summary.refusal_us_p99)}" if refused else "0",
        "latency": f"p50 {_us(summary.latency_us_p50)}, p99 {_us(summary.latency_us_p99)}, "
        f"p99.9 {_us(summary.latency_us_p999)}",
        "in server": f"p50 {_us(summary.server_us_p50)}, p99 {_us(summary.server_us_p99)}",
        "launches": f"{summary.launches}, fill {_share(summary.fill)}, padding {_share(summary.padding)}, "
        f"lanes busy {_share(summary.busy)}",
    }
    return "\n".join(f"{name:<10}{text}" for name, text in lines.items())


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} us"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def plot(outcome: Outcome, path: Path) -> None:
    """Latencies as a distribution and over time, and how full launches were, as a picture at `path`.

    A Failure where matplotlib is missing or the file cannot be written.
    """
    try:
        # By name, for type checkers run where it is not installed.
        figures = import_module("matplotlib.figure")
    except ImportError:
        raise Failure("--plot needs matplotlib: pip install 'narsil-graph[plots]'") from None
    figure = figures.Figure(figsize=(15, 4.5), layout="constrained")
    spread, line, fills = figure.subplots(1, 3)
    answered = outcome.requests["status"] == Status.OK
    latency_ms = outcome.latency_ns[answered] / 1e6
    if len(latency_ms):
        shares = np.linspace(0, 1, min(POINTS_MAX, len(latency_ms)))
        spread.plot(np.quantile(latency_ms, shares), shares)
        every = slice(None, None, -(-len(latency_ms) // POINTS_MAX))
        arrival_s = outcome.requests["arrival_ns"][answered] / 1e9
        line.plot(arrival_s[every], latency_ms[every], ".", markersize=2)
        fills.hist(outcome.launches["rows"] / outcome.launches["bucket_rows"], bins=20, range=(0, 1))
    spread.set(xlabel="latency, ms", ylabel="share of answered requests", ylim=(0, 1))
    line.set(xlabel="arrival, s", ylabel="latency, ms")
    fills.set(xlabel="rows asked for in a launch / rows of its bucket", ylabel="launches")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        # matplotlib refuses an ending that it knows no format for with a ValueError.
        raise Failure(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None

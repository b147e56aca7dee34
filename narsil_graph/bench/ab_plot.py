"""A comparison as a picture."""

from pathlib import Path
from typing import Any

import numpy as np

from narsil_graph.bench.ab_report import Verdict
from narsil_graph.bench.bootstrap import Interval
from narsil_graph.bench.comparison import Phase
from narsil_graph.bench.load_plot import figures
from narsil_graph.errors import Failure

POINTS_MAX = 2000


def plot(verdict: Verdict, found: Phase, path: Path) -> None:
    """The intervals of A / A and B / A, the ratios round by round, and both latency curves, as a PNG at `path`.

    A Failure where matplotlib is missing or the file cannot be written.
    """
    figure = figures().Figure(figsize=(16, 4.5), layout="constrained")
    intervals, rounds, curves = figure.subplots(1, 3)
    _intervals(intervals, verdict)
    for name in verdict.found:
        ratios = [np.exp(one.log_ratios()[name]) for one in found.rounds]
        rounds.plot(range(1, len(ratios) + 1), ratios, "o-", markersize=3, label=name)
    rounds.axhline(1.0, color="grey", linewidth=0.8)
    rounds.set(xlabel="round", ylabel="B / A", title="round by round")
    rounds.legend()
    for name, sides in (("A", [one.a for one in found.rounds]), ("B", [one.b for one in found.rounds])):
        latency_ms = np.concatenate([side.latency_us for side in sides]) / 1e3
        # From 0 to 1 less one request in all, evenly on the axis that stretches the tail.
        beyond = np.geomspace(1, len(latency_ms), min(POINTS_MAX, len(latency_ms)))
        curves.plot(beyond, np.quantile(latency_ms, 1 - 1 / beyond), label=name)
    curves.set(xscale="log", yscale="log", xlabel="1 / (1 - q): 2 is p50, 100 is p99", ylabel="latency, ms")
    curves.set_title("latency")
    curves.legend()
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None


def _intervals(axes: Any, verdict: Verdict) -> None:
    names = list(verdict.found)
    sets: tuple[tuple[str, dict[str, Interval], float], ...] = (
        ("A / A", verdict.check, 0.1),
        ("B / A", verdict.found, -0.1),
    )
    for label, intervals, shift in sets:
        known = [(place, intervals[name]) for place, name in enumerate(names) if name in intervals]
        axes.errorbar(
            [its.ratio for _, its in known],
            [shift - place for place, _ in known],
            xerr=np.array([(its.ratio - its.low, its.high - its.ratio) for _, its in known]).T,
            fmt="o",
            capsize=4,
            label=label,
        )
    axes.axvline(1.0, color="grey", linewidth=0.8)
    axes.set_yticks([-place for place in range(len(names))], names)
    axes.set(xlabel="ratio, 95% interval", title="B / A, and A / A beside it")
    axes.legend()

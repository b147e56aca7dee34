"""A load as a picture."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from narsil_graph.bench.load_result import STAGES, stages_of
from narsil_graph.bench.log import Log
from narsil_graph.errors import Failure

# Points of the time line: beyond them lines cross more than they show.
BINS_MAX = 100
# In each bin, on average, or its p99 would be its largest.
BIN_REQUESTS = 50
# The curve's marked percentiles, as 1/(1-q).
MARKS = {10: "90", 100: "99", 1_000: "99.9", 10_000: "99.99", 100_000: "99.999"}


def figures() -> Any:
    """matplotlib.figure; a Failure where it is not installed."""
    try:
        # By name, for type checkers run where it is not installed.
        return import_module("matplotlib.figure")
    except ImportError:
        raise Failure("--png needs matplotlib: pip install 'narsil-graph[bench]'") from None


def plot(log: Log, path: Path) -> None:
    """The percentile curve, p50 and p99 over time, and the stages over time, as a PNG at `path`.

    A Failure where matplotlib is missing or the file cannot be written.
    """
    figure = figures().Figure(figsize=(16, 4.5), layout="constrained")
    curve, line, stack = figure.subplots(1, 3)
    if log.ok.any():
        _curve(curve, log)
        _line(line, log)
        _stack(stack, log)
    curve.set(xlabel="percentile", ylabel="latency, ms", title="latency")
    line.set(xlabel="s, from the first request", ylabel="latency, ms", title="over time")
    stack.set(xlabel="s, from the first request", ylabel="mean, ms", title="stages")
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None


def _curve(axes: Any, log: Log) -> None:
    ok = log.ok
    count = int(ok.sum())
    # Rank k of n stands for 1/(1-q) = n/(n-k), from the first to the last but one, where q is 1.
    beyond = count / np.arange(count, 0, -1)
    for times_us, name, style in ((log.latency_us, "from the intended time", "-"), (log.naive_us, "naive", ":")):
        axes.plot(beyond, np.sort(times_us[ok]) / 1e3, style, label=name)
    axes.set_xscale("log")
    marks = {place: text for place, text in MARKS.items() if place <= max(count, 10)}
    axes.set_xticks([1, 2, *marks], ["0", "50", *marks.values()])
    axes.minorticks_off()
    axes.legend()


def _line(axes: Any, log: Log) -> None:
    ok = log.ok
    latency_ms = log.latency_us[ok] / 1e3
    bins, middle_s = _bins(log)
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        axes.plot(middle_s, [np.quantile(latency_ms[places], share) for places in bins], label=name)
    axes.legend()


def _stack(axes: Any, log: Log) -> None:
    stages = stages_of(log)
    if not stages or any(len(times_us) != log.ok.sum() for times_us in stages.values()):
        axes.text(0.5, 0.5, "the server tells no stages", ha="center", transform=axes.transAxes)
        return
    bins, middle_s = _bins(log)
    means = [[stages[name][places].mean() / 1e3 for places in bins] for name in STAGES]
    axes.stackplot(middle_s, means, labels=STAGES)
    # Beside the axes, which the stack fills, and in its order.
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), reverse=True)


def _bins(log: Log) -> tuple[list[Any], list[float]]:
    """Of the answered requests the places in each bin of time, where there are any, and the bins' middles in s."""
    intended_s = (log.intended_ns[log.ok] - log.intended_ns.min()) / 1e9
    count = int(np.clip(len(intended_s) // BIN_REQUESTS, 1, BINS_MAX))
    width_s = max(float(intended_s.max()), 1e-9) / count
    places = np.minimum((intended_s / width_s).astype(np.int64), count - 1)
    full = [number for number in range(count) if (places == number).any()]
    return [np.flatnonzero(places == number) for number in full], [(number + 0.5) * width_s for number in full]

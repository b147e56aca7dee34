"""Scheduling by cost beside the plain policy (fixed timeout, largest bucket), simulated on a measured cost curve.

python benchmarks/scheduling.py --cost FILE
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import machine
from benchmarks.machine import Report, interval, ratio_text
from benchmarks.scheduling_rig import MEAN_ROWS, Bench, bench_of
from narsil_graph.simulation.arrivals import Arrivals, ClosedLoop, mlperf
from narsil_graph.simulation.outcome import Outcome
from narsil_graph.simulation.report import is_late, summarise
from narsil_graph.trace import read_trace
from narsil_transport.status import Status

CLIENTS = 64
DEADLINE_US = 30_000
# Of the burst: what the steady load is multiplied by, for how long, and how finely the time after it is looked at.
BURST, BURST_S, BIN_S, BINS = 20, 0.1, 0.05, 6
BURST_BEGIN_S, BURST_RUN_S = 1.0, 1.6
STEADY_LOAD = 0.3
# How far a bin's p99 may lie above the steady one and still be that: it is a tail of some hundred requests.
STEADY_SLACK = 1.1

Rows = list[dict[str, object]]
Floats = npt.NDArray[np.float64]
Seeds = dict[str, list[float]]


def loads(bench: Bench) -> Rows:
    """Latency at a share of the capacity: every policy sees the same arrivals, seed by seed."""
    found: Rows = []
    for load in (0.3, 0.6, 0.9):
        p50: Seeds = {}
        p99: Seeds = {}
        for seed in range(bench.seeds):
            arrivals = bench.poisson(seed, [(load, bench.seconds)])
            for name, made in bench.policies().items():
                latency_ms = bench.run(arrivals, made, seed).latency_ns / 1e6
                p50.setdefault(name, []).append(float(np.quantile(latency_ms, 0.5)))
                p99.setdefault(name, []).append(float(np.quantile(latency_ms, 0.99)))
        for name in p99:
            row: dict[str, object] = {"load": load, "policy": name}
            row |= {"p50 ms": _with_interval(p50[name]), "p99 ms": _with_interval(p99[name])}
            found.append(row | _beside(p99, name, min))
    return found


def saturation(bench: Bench) -> Rows:
    """What a closed loop that never thinks gets through."""
    rows_per_s: Seeds = {}
    fill: Seeds = {}
    source = ClosedLoop(CLIENTS, 1.0, bench.seconds, mlperf(), ids_per_row=1)
    for seed in range(bench.seeds):
        for name, made in bench.policies().items():
            summary = summarise(bench.run(source, made, seed))
            assert summary.fill is not None
            rows_per_s.setdefault(name, []).append(summary.rows_per_s)
            fill.setdefault(name, []).append(summary.fill)
    found: Rows = []
    for name, values in rows_per_s.items():
        row: dict[str, object] = {"policy": name, "rows/s": _with_interval(values), "fill": _with_interval(fill[name])}
        row |= _beside(rows_per_s, name, max)
        found.append(row | {"/ capacity": f"{np.median(values) / (bench.capacity * MEAN_ROWS):.3f}"})
    return found


def _beside(values: Seeds, name: str, best: Callable[[list[float]], float]) -> dict[str, object]:
    """The ratio to what each seed's best timeout gives, of those on the same ladder and of those on powers of two."""
    plain = {other: values[other] for other in values if other.startswith("timeout")}
    found: dict[str, object] = {}
    for ladder, chosen in (("same ladder", False), ("powers of two", True)):
        rivals = [seeds for other, seeds in plain.items() if other.endswith("powers of two") is chosen]
        bests = [best(list(seed)) for seed in zip(*rivals, strict=True)]
        found[f"/ best timeout, {ladder}"] = ratio_text(values[name], bests)
    return found


def overload(bench: Bench, seconds: float) -> Rows:
    """Rows that were scored within the deadline, over what the capacity would have scored meanwhile."""
    policies = {
        "by cost": bench.by_cost(),
        "by cost, margin of a launch": bench.by_cost(margin=True),
        "by cost, no admission control": bench.by_cost(admission=False),
        "timeout 1.0 ms": bench.by_timeout(1.0),
    }
    found: Rows = []
    for load in (1.5, 3.0):
        outcomes: dict[str, list[Outcome]] = {}
        for seed in range(bench.seeds):
            arrivals = bench.poisson(seed, [(load, seconds)], deadline_us=DEADLINE_US)
            for name, made in policies.items():
                outcomes.setdefault(name, []).append(bench.run(arrivals, made, seed))
        for name, runs in outcomes.items():
            refused = [run.server_ns[run.requests["status"] == Status.WOULD_MISS] / 1e6 for run in runs]
            refused_ms = np.concatenate(refused)
            wanted_rows = bench.capacity * MEAN_ROWS * seconds
            goods = [_rows_by(run, seconds) for run in runs]
            found.append({
                "load": load,
                "policy": name,
                "goodput": _with_interval([good / wanted_rows for good, _, _ in goods]),
                "counted from arrival": _with_interval([punctual / wanted_rows for _, punctual, _ in goods]),
                "throughput": _with_interval([scored / wanted_rows for _, _, scored in goods]),
                "late": sum(summarise(run).late for run in runs),
                "expired": sum(int((run.requests["status"] == Status.DEADLINE_EXCEEDED).sum()) for run in runs),
                "would miss": len(refused_ms),
                "refused in ms, p99": float(np.quantile(refused_ms, 0.99)) if len(refused_ms) else "-",
            })  # fmt: skip
    return found


def _rows_by(outcome: Outcome, seconds: float) -> tuple[float, float, float]:
    """Rows scored by then: within their deadline from receipt, from arrival as a client counts it, and at all."""
    requests = outcome.requests
    scored = (requests["status"] == Status.OK) & (requests["answered_ns"] <= seconds * 1e9)
    punctual = outcome.latency_ns <= requests["deadline_us"].astype(np.int64) * 1000
    kinds = (scored & ~is_late(outcome), scored & punctual, scored)
    good, soon, every = (float(requests["rows"][kind].sum()) for kind in kinds)
    return good, soon, every


def burst(bench: Bench, seeds: int) -> Rows:
    """p99 by time since the end of a burst of 20x the steady load, requests of all seeds together."""
    pieces = [(STEADY_LOAD, BURST_BEGIN_S), (STEADY_LOAD * BURST, BURST_S), (STEADY_LOAD, BURST_RUN_S - BURST_BEGIN_S)]
    policies = {"by cost": bench.by_cost(), "timeout 1.0 ms": bench.by_timeout(1.0)}
    gathered: dict[str, list[tuple[Floats, Floats]]] = {}
    for seed in range(seeds):
        arrivals = bench.poisson(seed, pieces, deadline_us=DEADLINE_US)
        for name, made in policies.items():
            outcome = bench.run(arrivals, made, seed)
            answered = outcome.requests["status"] == Status.OK
            since_s = outcome.requests["arrival_ns"][answered] / 1e9 - BURST_BEGIN_S - BURST_S
            gathered.setdefault(name, []).append((since_s, outcome.latency_ns[answered] / 1e6))
    found: Rows = []
    for name, parts in gathered.items():
        since_s, latency_ms = (np.concatenate(column) for column in zip(*parts, strict=True))
        steady = _p99(latency_ms[since_s < -BURST_S])
        bins = [_p99(latency_ms[(since_s >= at * BIN_S) & (since_s < (at + 1) * BIN_S)]) for at in range(BINS)]
        row: dict[str, object] = {"policy": name, "steady p99 ms": steady}
        row["in the burst"] = _p99(latency_ms[(since_s >= -BURST_S) & (since_s < 0)])
        row |= {f"to {(at + 1) * BIN_S * 1e3:.0f} ms after": p99 for at, p99 in enumerate(bins)}
        calm = [at for at, p99 in enumerate(bins) if p99 <= steady * STEADY_SLACK]
        row["steady from"] = f"{calm[0] * BIN_S * 1e3:.0f} ms" if calm else f"> {BINS * BIN_S * 1e3:.0f} ms"
        found.append(row)
    return found


def _p99(latency_ms: Floats) -> float:
    return float(np.quantile(latency_ms, 0.99))


def against(path: Path, bench: Bench) -> Rows:
    """A recorded trace's latencies beside those of its arrivals simulated: from receipt, as the server records."""
    trace = read_trace(path)
    outcome = bench.run(Arrivals.recorded(trace), bench.by_cost(trace.header.ladder), machine.SEED)
    measured_us = trace.records["latency_us"][trace.records["status"] == Status.OK]
    simulated_us = outcome.server_ns[outcome.requests["status"] == Status.OK] / 1e3
    found: Rows = []
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        real, predicted = float(np.quantile(measured_us, share)), float(np.quantile(simulated_us, share))
        found.append({"latency": name, "measured us": real, "simulated us": predicted, "ratio": predicted / real})
    return found


def _with_interval(values: Sequence[float]) -> str:
    middle, low, high = interval(values)
    digits = 0 if middle >= 1000 else 3
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main() -> None:
    options = _options()
    report = Report("scheduling, simulated: by known cost and by a fixed timeout")
    bench = bench_of(options.cost, seeds=2 if options.quick else 5, seconds=2.0 if options.quick else 40.0)
    print(f"# capacity: {bench.capacity:.0f} requests/s of {MEAN_ROWS} rows on average, which no policy can pass")
    if options.against is not None:
        report.table(f"{options.against}, measured and simulated", against(options.against, bench))
    else:
        report.table("Poisson arrivals, MLPerf sizes: latency from arrival", loads(bench))
        report.table(f"saturation: {CLIENTS} clients that never pause", saturation(bench))
        overload_s = 2.0 if options.quick else 30.0
        report.table(
            f"overload for {overload_s:.0f} s, deadline {DEADLINE_US / 1e3:.0f} ms", overload(bench, overload_s)
        )
        title = f"a burst of {BURST}x for {BURST_S * 1e3:.0f} ms at {STEADY_LOAD:.0%} load: p99 ms of answered requests"
        report.table(title, burst(bench, 10 if options.quick else 300))
    report.write(options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cost", type=Path, help="of narsil-graph doctor --save-cost; without it a built-in curve")
    parser.add_argument("--against", type=Path, metavar="TRACE", help="only compare with this recorded trace")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: only shows that it works")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""The sixty lines that a GPU check comes to, from what it found; a part that failed is one line that says why."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

LINES_MAX, WIDTH_MAX = 60, 200
FAILED_TESTS_SHOWN = 4
Found = Mapping[str, Any]
Rows = list[dict[str, Any]]


def summary(found: Found) -> list[str]:
    """Where it ran, what passed, then every measured part, cut to LINES_MAX lines."""
    lines = [line[:WIDTH_MAX] for line in _lines(found)]
    return lines if len(lines) <= LINES_MAX else [*lines[: LINES_MAX - 1], f"({len(lines) - LINES_MAX + 1} more lines)"]


def _lines(found: Found) -> Iterator[str]:
    machine, device = found["machine"], found["device"]
    yield f"GPU check: {'PASSED' if found['passed'] else 'FAILED'}  {machine['date']}  commit {machine['commit']}"
    yield ", ".join(f"{name} {value}" for name, value in device.items())
    yield f"{machine['hardware']}; {machine['versions']}"
    tests = found["tests"]
    yield f"tests/gpu: {'passed' if tests['passed'] else 'FAILED'}: {tests['result']}"
    yield from tests["failed"][:FAILED_TESTS_SHOWN]
    yield from _doctor(found["doctor"])
    for name, part in found["replay"].items():
        if part.get("problem"):
            yield f"{name}: no result: {part['problem']}"
        else:
            yield from PARTS[name](list(part["tables"].values()))


def _doctor(runs: Found) -> Iterator[str]:
    yield "doctor: worst error against float64 | 100 rows (or the nearest): replay p50 us, eager us, ratio, nodes"
    for name, run in runs.items():
        buckets: Rows = run["report"].get("buckets", [])
        if not run["passed"] or not buckets:
            yield f"  {name}: FAILED: {run['problem']}"
            continue
        near = min(buckets, key=lambda bucket: abs(bucket["rows"] - 100))
        error = max(bucket["error"] for bucket in buckets)
        replay, eager = near["replay_us_p50"], near["eager_us_p50"]
        times = f"{replay:.1f}, {eager:.1f}, {eager / replay:.2f}x, {near['nodes']}"
        yield f"  {name}: healthy, {len(buckets)} buckets, {error:.1e} | {times}"


def _sides(tables: list[Rows]) -> Iterator[str]:
    yield "100 rows with both copies (by events | launch to ready): graph us, eager / TorchScript over graph (>= 5)"
    for events, wall in zip(*tables, strict=True):
        shown = " | ".join(
            f"{row['graph us']:.1f} us, {_ratio(row, 'eager')} / {_ratio(row, 'torchscript')}" for row in (events, wall)
        )
        yield f"  {events['precision']:<4} bucket {events['bucket']}: {shown}"


def _ratio(row: Found, name: str) -> str:
    return f"{row[f'{name}/graph']:.2f} [{row[f'{name} low95']:.2f}, {row[f'{name} high95']:.2f}]"


def _breakdown(tables: list[Rows]) -> Iterator[str]:
    yield "one launch of 100 rows, us: total (<= 150), its p99 | host work (<= 30), which is all but the wait"
    for row in tables[0]:
        parts = ", ".join(f"{name} {row[name]:.1f}" for name in ("fill", "replay call", "record", "wait", "read"))
        totals = f"{row['total']:.1f}, {row['total p99']:.1f} | host {row['host work']:.1f}"
        yield f"  {row['launch']}, {row['completion']}: {totals}: {parts}, {row['queries']:.0f} queries"


def _curve(tables: list[Rows]) -> Iterator[str]:
    curve, floors = tables
    for some in (floors[:3], floors[3:6], floors[6:]):
        yield "floors: " + "; ".join(f"{row['floor']} {row['value']:.4g}" for row in some)
    last = curve[-1]["precision"]
    shown = [row for row in curve if row["precision"] == last]
    yield f"replay by rows, {last}: us, nodes, share of the bytes floor and of the FLOPs floor, limited by"
    for first, second in _pairs(shown):
        yield "  " + "   ".join(_curve_cell(row) for row in (first, second) if row)


def _curve_cell(row: Found) -> str:
    shares = f"{row['of bytes floor']:>6.1%} {row['of FLOPs floor']:>6.1%}"
    return f"{row['rows']:>5}: {row['us']:>7.1f} us {row['nodes']} nodes {shares} {row['limited by']:<6}"


def _pairs(rows: Rows) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    half = (len(rows) + 1) // 2
    return zip(rows[:half], [*rows[half:], {}][:half], strict=True)


def _capture(tables: list[Rows]) -> Iterator[str]:
    yield "capture, 2 slots (<= 100 ms and <= 4 MiB a bucket beyond the largest):"
    for precision in dict.fromkeys(row["precision"] for row in tables[0]):
        prepared, largest, *others = (row for row in tables[0] if row["precision"] == precision)
        before = f"prepare {prepared['ms']:.0f} ms {prepared['device MiB']:.1f} MiB"
        first = f"largest ({largest['rows']}) {largest['ms']:.0f} ms {largest['device MiB']:.1f} MiB"
        worst_ms, worst_mib = (max(row[key] for row in others) for key in ("ms", "device MiB"))
        rest = f"the other {len(others)} at most {worst_ms:.0f} ms, {worst_mib:.1f} MiB"
        yield f"  {precision}: {before}; {first}; {rest}"


def _kernels(tables: list[Rows]) -> Iterator[str]:
    yield "fbgemm / triton kernels, one replay, us:"
    for precision in dict.fromkeys(row["precision"] for row in tables[0]):
        rows = [row for row in tables[0] if row["precision"] == precision]
        cells = (f"{row['rows']} rows {row['fbgemm us']:.1f} / {_or_none(row.get('triton us'))}" for row in rows)
        yield f"  {precision}: {'; '.join(cells)}"


def _or_none(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"


def _lanes(tables: list[Rows]) -> Iterator[str]:
    for batch in dict.fromkeys(row["batch"] for row in tables[0]):
        rows = [row for row in tables[0] if row["batch"] == batch]
        cells = (f"{row['lanes']}: {row['samples/s']:,.0f}" for row in rows)
        yield f"samples/s in process by lanes, batches of {batch}: {'; '.join(cells)}"


def _zero_copy(tables: list[Rows]) -> Iterator[str]:
    cells = (
        f"{row['rows']} rows {row['copy node + kernel us']:.1f} / {row['kernel on host memory us']:.1f}"
        for row in tables[0]
    )
    yield f"input by copy node / read in place from host memory, us: {'; '.join(cells)}"


def _served(tables: list[Rows]) -> Iterator[str]:
    for row in tables[0]:
        times = f"p50 {row['p50 us']:.0f} us, p99 {row['p99 us']:.0f} us ({row['p99/p50']:.1f}x)"
        clients = f"{row['client processes']} client processes"
        yield f"served, {row['in flight']} in flight, {clients}: {row['samples/s']:,.0f} samples/s, {times}"


PARTS: dict[str, Callable[[list[Rows]], Iterator[str]]] = {
    "sides": _sides,
    "breakdown": _breakdown,
    "curve": _curve,
    "capture": _capture,
    "kernels": _kernels,
    "lanes": _lanes,
    "zero_copy": _zero_copy,
    "served": _served,
}

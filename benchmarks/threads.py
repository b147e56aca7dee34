"""One thread against two for one forward, alone on the machine and beside a busy neighbour.

python benchmarks/threads.py
"""

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager

from benchmarks import machine
from benchmarks.processes import run_script

ROWS = (512, 1600)
PRECISIONS = ("f32", "bf16")
# Thread counts are fixed when libraries load, so that every figure is a fresh process.
PAIRS = 7
NEIGHBOUR_ROWS, NEIGHBOUR_PAIRS = 512, 5


def main() -> None:
    options = machine.parser(__doc__).parse_args()
    report = machine.Report("threads: the plan on one thread and on two, in alternating processes")
    machine.made(options.model)
    report.table("two threads, times one thread", scaling(options))
    report.table(
        f"two threads, f32, {NEIGHBOUR_ROWS} rows: what bounding libgomp's spin (GOMP_SPINCOUNT=3000) costs and saves",
        neighbour(options),
    )
    report.write(options.json)


def scaling(options: argparse.Namespace) -> list[dict[str, object]]:
    taken_us: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for turn in range(1 if options.quick else PAIRS):
        for threads in (1, 2) if turn % 2 else (2, 1):
            for (precision, rows), us in forward_us(options, threads, PRECISIONS, ROWS).items():
                taken_us[precision, rows, threads].append(us)
    found: list[dict[str, object]] = []
    for precision in PRECISIONS:
        for rows in ROWS:
            one, two = taken_us[precision, rows, 1], taken_us[precision, rows, 2]
            ratio, low, high = machine.interval([a / b for a, b in zip(one, two, strict=True)])
            found.append({"precision": precision, "rows": rows, "one thread us": machine.interval(one)[0],
                          "two threads us": machine.interval(two)[0],
                          "ratio": ratio, "low95": low, "high95": high})  # fmt: skip
    return found


def neighbour(options: argparse.Namespace) -> list[dict[str, object]]:
    taken_us: dict[tuple[str, str], list[float]] = defaultdict(list)
    for turn in range(1 if options.quick else NEIGHBOUR_PAIRS):
        for spin in ("bounded", "unbounded") if turn % 2 else ("unbounded", "bounded"):
            taken_us[spin, "quiet"].append(_one_us(options, spin))
            with busy():
                taken_us[spin, "neighbour"].append(_one_us(options, spin))
    found: list[dict[str, object]] = []
    for spin in ("bounded", "unbounded"):
        row: dict[str, object] = {"spin": spin}
        for place in ("quiet", "neighbour"):
            middle, low, high = machine.interval(taken_us[spin, place])
            row |= {f"{place} us": middle, f"{place} low95": low, f"{place} high95": high}
        found.append(row)
    return found


def _one_us(options: argparse.Namespace, spin: str) -> float:
    return forward_us(options, 2, ("f32",), (NEIGHBOUR_ROWS,), "--spin", spin)["f32", NEIGHBOUR_ROWS]


def forward_us(
    options: argparse.Namespace, threads: int, precisions: tuple[str, ...], rows: tuple[int, ...], *more: str
) -> dict[tuple[str, int], float]:
    """The median microseconds of a call, by precision and rows, from a process of its own."""
    quick = ["--rounds", "1", "--quick"] if options.quick else ["--rounds", "6"]
    names, sizes = ",".join(precisions), ",".join(map(str, rows))
    chosen = ["--threads", threads, "--contenders", names, "--rows", sizes, "--no-peak"]
    (table,) = run_script("forward.py", "--model", options.model, *chosen, *quick, *more).values()
    return {(str(row["forward"]), int(row["rows"])): float(row["us"]) for row in table}


@contextmanager
def busy() -> Generator[None]:
    """A process that computes for as long as the block lasts, on whichever core it is given."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()

"""One forward in this process: the plan in each precision against eager FBGEMM, TorchScript and ONNX Runtime.

python benchmarks/forward.py --threads 1
"""

import argparse
import os
from collections.abc import Mapping, Sequence

from benchmarks import machine
from narsil_graph import threads

ROWS = (1, 8, 32, 100, 128, 512, 1600)
# Above this many rows a burst is shorter, so that all contenders meet the same seconds of a shared machine.
BURST_ROWS = 128


def main() -> None:
    options = _options()
    threads.prepare(options.threads)
    if options.spin == "unbounded":
        os.environ.pop("GOMP_SPINCOUNT", None)
    threads.pin_torch(options.threads)
    report = machine.Report(f"forward: in process, {options.threads} thread(s)")
    run(options, report)
    report.write(options.json)


def _options() -> argparse.Namespace:
    parser = machine.parser(__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help="batch sizes")
    parser.add_argument("--contenders", help="comma-separated; all that run here if unset")
    parser.add_argument("--rounds", type=int, help="bursts of each contender")
    parser.add_argument("--no-peak", action="store_true", help="do not measure the large multiplication")
    parser.add_argument("--spin", choices=["bounded", "unbounded"], default="bounded",
                        help="bounded: the server's GOMP_SPINCOUNT; unbounded: libgomp's own default")  # fmt: skip
    return parser.parse_args()


def run(options: argparse.Namespace, report: machine.Report) -> None:
    # After threads.prepare: these load the libraries that read its settings once.
    from benchmarks.contenders import CONTENDERS, Contest
    from benchmarks.gemm import peaks_gflops
    from narsil_graph.engine import fbgemm
    from narsil_graph.model.weights import load_model

    fbgemm.load_library()
    model = load_model(machine.made(options.model))
    peaks = {} if options.no_peak else peaks_gflops()
    if peaks:
        report.table("matrix multiplication 2048x1024x1024, best, 1e9 operations/s", [dict(peaks)])
    contest = Contest(model, options.contenders.split(",") if options.contenders else CONTENDERS, options.threads)
    operations = 2 * sum(out * width for out, width in (*model.spec.dense_shapes(), *model.spec.over_shapes()))
    rows: list[dict[str, object]] = []
    for size in map(int, options.rows.split(",")):
        large = size > BURST_ROWS
        rounds = options.rounds or (3 if options.quick else 12 if large else 24)
        taken_us, kernels = contest.measure(size, rounds=rounds, burst=5 if options.quick else 8 if large else 25)
        rows += _rows(size, taken_us, kernels, size * operations, peaks)
    report.table("one call (lookup, dense arch, dots, over arch, sigmoid)", rows)


def _rows(
    size: int,
    taken_us: Mapping[str, Sequence[float]],
    kernels: Mapping[str, str],
    operations: int,
    peaks: Mapping[str, float],
) -> list[dict[str, object]]:
    first, base = next(iter(taken_us.items()))
    rows: list[dict[str, object]] = []
    for name, values in taken_us.items():
        median_us = machine.interval(values)[0]
        ratio, low, high = machine.interval([a / b for a, b in zip(base, values, strict=True)])
        # A plan may have picked a higher precision than it was allowed: its own peak is the one that limits it.
        arithmetic = kernels[name].split()[0]
        peak = max((value for kind, value in peaks.items() if kind.split()[0] == arithmetic), default=None)
        percent = f"{operations / median_us / 1e3 / peak:.0%}" if peak else ""
        rows.append({"rows": size, "forward": name, "us": median_us, "samples/s": size / median_us * 1e6,
                     f"times {first}": ratio, "low95": low, "high95": high,
                     "of peak": percent, "kernels": kernels[name]})  # fmt: skip
    return rows


if __name__ == "__main__":
    main()

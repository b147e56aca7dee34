"""Over ZeroMQ: what serving adds to a forward (`pinned`), and the table of the design's origin (`seed-table`).

python benchmarks/served.py pinned
python benchmarks/served.py seed-table
"""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.load import Load, closed_loop, messages, pooled
from benchmarks.processes import Process, Served, free_ports, pinned, run_script, two_cpus
from narsil_graph.model.spec import ModelSpec
from narsil_graph.model.weights import load_model

ROWS = 100
# A reply to 100 rows: its header and its scores.
ECHO_BYTES = ("82", "400")
# The second keeps the client asleep for about as long as a forward does, and so shows what waking it costs.
ECHO_WORK_US = (0, 1000)
BUCKETS = "100,128,256,384,512"
# Published with the design that this one follows; none was run here.
OTHER_HARDWARE = (
    ("L4: TorchRec C++ gRPC + TorchScript int8", 16, 2148.0, 214_821.0, 7.23, 13.27, 780),
    ("L4: Narsil route A (libtorch/FBGEMM), batch mode", 16, 4377.0, 437_736.0, 3.34, 14.12, 478),
    ("L4: Narsil route A, worker mode (1 lane)", 16, 1412.0, 141_160.0, 11.40, 11.83, 454),
    ("L4: Narsil Burn CUDA DLRM float32", 16, 79.0, 7_935.0, 201.3, 211.0, 954),
    ("L4: TorchRec C++ gRPC + TorchScript int8", 1, 967.0, 96_717.0, 1.033, None, None),
    ("L4: Narsil route A, worker mode", 1, 975.0, 97_475.0, 1.024, None, None),
    ("L4: Narsil Burn CUDA DLRM float32", 1, 77.0, 7_655.0, 13.04, None, None),
)


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("part", choices=["pinned", "seed-table"])
    parser.add_argument("--precisions", default="f32,bf16,int8")
    parser.add_argument("--transport", choices=["ipc", "tcp"], help="ipc for pinned and tcp for seed-table if unset")
    options = parser.parse_args()
    report = machine.Report(f"served, {options.part}: {ROWS} rows a request")
    machine.made(options.model)
    (run_pinned if options.part == "pinned" else run_seed_table)(options, report)
    report.write(options.json)


def _bind(options: argparse.Namespace, default: str, folder: str, name: str) -> str:
    return "tcp://127.0.0.1:*" if (options.transport or default) == "tcp" else f"ipc://{folder}/{name}"


def run_pinned(options: argparse.Namespace, report: machine.Report) -> None:
    """The server on one core, the client on another; the forward alone, on the server's core, in between."""
    spec = load_model(options.model).spec
    server_cpu, client_cpu = two_cpus()
    rounds, seconds = (1, 0.3) if options.quick else (5, 3.0)
    throughput: list[dict[str, object]] = []
    latency: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="narsil-") as folder:
        for precision in options.precisions.split(","):
            bind = _bind(options, "ipc", folder, precision)
            with Served(options.model, bind, precision=precision, cpu=server_cpu) as server:
                alone: list[float] = []
                loads: list[Load] = []
                singles: list[Load] = []
                for _ in range(rounds):
                    alone.append(_best_in_process(options, precision, server_cpu))
                    with pinned(client_cpu):
                        loads.append(_load(server.endpoints, spec, 16, seconds))
                        singles.append(_load(server.endpoints, spec, 1, seconds))
            served = [load.samples_per_s for load in loads]
            ratio, low, high = machine.interval([a / b for a, b in zip(served, alone, strict=True)])
            throughput.append({"precision": precision, "in process samples/s": float(np.median(alone)),
                               "served samples/s": float(np.median(served)),
                               "ratio": ratio, "low95": low, "high95": high})  # fmt: skip
            latency.append(_latency_row(precision, pooled(singles)))
        for work_us in ECHO_WORK_US:
            bind = _bind(options, "ipc", folder, f"echo{work_us}").replace("*", str(free_ports(1)))
            latency.append(_echo(bind, work_us, spec, (server_cpu, client_cpu), seconds))
    report.table("16 in flight, against the forward alone at its best bucket", throughput)
    report.table("1 in flight, us: overhead is the round trip less the launch that the reply reports", latency)


def _best_in_process(options: argparse.Namespace, precision: str, cpu: int) -> float:
    """Samples/s of the bucket that is best at them."""
    quick = ["--rounds", 2, "--quick"] if options.quick else ["--rounds", 5]
    arguments = ["--model", options.model, "--contenders", precision, "--rows", BUCKETS, "--no-peak", *quick]
    (rows,) = run_script("forward.py", *arguments, cpu=cpu).values()
    return max(float(row["samples/s"]) for row in rows)


def _load(endpoints: list[str], spec: ModelSpec, in_flight: int, seconds: float) -> Load:
    places = messages(spec, rows=ROWS, in_flight=in_flight)
    return closed_loop(endpoints, places, rows=ROWS, seconds=seconds)


def _latency_row(name: str, load: Load) -> dict[str, object]:
    beyond = load.beyond_launch_us()
    return {
        "server": name,
        "p50": load.round_trip(0.5),
        "p99": load.round_trip(0.99),
        "launch p50": float(np.median(load.launch_us)),
        "overhead p50": float(np.median(beyond)),
        "overhead p99": float(np.quantile(beyond, 0.99)),
        "of that in the server p50": float(np.median(np.array(load.server_us) - np.array(load.launch_us))),
    }


def _echo(bind: str, work_us: int, spec: ModelSpec, cpus: tuple[int, int], seconds: float) -> dict[str, object]:
    """A bare ROUTER in Python that computes for ``work_us`` and answers the same requests with as many bytes."""
    script = str(Path(__file__).parent / "peers" / "zmq_echo.py")
    with Process([sys.executable, script, bind, *ECHO_BYTES, str(work_us)], cpu=cpus[0]), pinned(cpus[1]):
        places = messages(spec, rows=ROWS, in_flight=1)
        load = closed_loop([bind], places, rows=ROWS, seconds=seconds, echo=True)
    p50, p99 = load.round_trip(0.5), load.round_trip(0.99)
    return {"server": f"bare ROUTER, {work_us} us of work", "p50": p50, "p99": p99, "launch p50": float(work_us),
            "overhead p50": p50 - work_us, "overhead p99": p99 - work_us, "of that in the server p50": ""}  # fmt: skip


def run_seed_table(options: argparse.Namespace, report: machine.Report) -> None:
    """One worker per precision, then two for the lower precisions; rounds go over all of them in turn."""
    rows: list[dict[str, object]] = []
    precisions = options.precisions.split(",")
    rows += _table_rows(options, [(precision, 1) for precision in precisions], (1, 16))
    rows += _table_rows(options, [(precision, 2) for precision in precisions if precision != "f32"], (16,))
    for name, in_flight, requests, samples, p50_ms, p99_ms, mib in OTHER_HARDWARE:
        published = {
            "req/s": requests,
            "samples/s": samples,
            "p50 ms": p50_ms,
            "p99 ms": p99_ms or "",
            "MiB": mib or "",
        }
        rows.append(
            dict.fromkeys(rows[0], "") | {"server": f"{name} (other hardware)", "in flight": in_flight} | published
        )
    report.table(f"{ROWS}-row requests; the L4 rows are as published, and their MiB are the GPU's", rows)


def _table_rows(
    options: argparse.Namespace, servers: list[tuple[str, int]], concurrencies: tuple[int, ...]
) -> list[dict[str, object]]:
    spec = load_model(options.model).spec
    rounds, seconds = (1, 0.3) if options.quick else (5, 2.0)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="narsil-") as folder, ExitStack() as stack:
        started: list[tuple[str, Served]] = []
        for precision, workers in servers:
            bind = _bind(options, "tcp", folder, precision).replace("*", str(free_ports(workers)))
            server = Served(options.model, bind, precision=precision, workers=workers)
            started.append((f"{precision}, {workers} worker{'s' * (workers > 1)}", stack.enter_context(server)))
        cells = [(name, server, c) for c in concurrencies for name, server in started]
        loads: list[list[Load]] = [[] for _ in cells]
        for _ in range(rounds):
            for cell, (_, server, c) in zip(loads, cells, strict=True):
                cell.append(_load(server.endpoints, spec, c, seconds))
        for cell, (name, server, c) in zip(loads, cells, strict=True):
            requests, low, high = machine.interval([load.requests_per_s for load in cell])
            whole = pooled(cell)
            p50_ms, p99_ms = whole.round_trip(0.5) / 1e3, whole.round_trip(0.99) / 1e3
            rows.append({"server": f"narsil-graph CPU {name}", "in flight": c, "req/s": requests, "low95": low,
                         "high95": high, "samples/s": requests * ROWS, "p50 ms": p50_ms, "p99 ms": p99_ms,
                         "MiB": round(server.resident_mib())})  # fmt: skip
    return rows


if __name__ == "__main__":
    main()

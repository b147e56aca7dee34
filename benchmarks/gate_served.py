"""Gates of the server: what it keeps of the forward's rate, and what it adds to a bare echo's round trip."""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.gate_forward import ROWS, Ratios
from benchmarks.load import Message, closed_loop, messages
from benchmarks.machine import ROOT, SEED
from benchmarks.processes import Process, Served, pinned, two_cpus
from benchmarks.small_model import save_small
from narsil_graph.build import EngineConfig, build_engine
from narsil_graph.commands import BUCKETS
from narsil_graph.engine.synthetic import one_hot_request
from narsil_graph.model.weights import Model
from narsil_transport.buckets import parse_rows

ROUNDS, SECONDS = 12, 0.6
IN_FLIGHT = 16
# Of the server's own ladder those that 16 requests of 100 rows fill.
BUCKET_ROWS = tuple(rows for rows in parse_rows(BUCKETS["cpu"]) if rows >= ROWS)
ECHO = ROOT / "benchmarks" / "peers" / "forward_echo.py"


class InProcess:
    """The forward alone, at each of the buckets that the server may fill."""

    def __init__(self, model: Model) -> None:
        self._engine = build_engine(model, EngineConfig(device="cpu", bucket_rows=BUCKET_ROWS))
        self._engine.capture_all(lambda bucket, captured: None)
        rng = np.random.default_rng(SEED)
        self._requests = [one_hot_request(model.spec, BUCKET_ROWS[-1], rng) for _ in range(64)]

    def samples_per_s(self, seconds: float) -> float:
        """Of the bucket that is best at them; the buckets take turns."""
        taken_ns: dict[int, list[int]] = {rows: [] for rows in BUCKET_ROWS}
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for bucket in self._engine.ladder.buckets:
                request = self._requests[len(taken_ns[bucket.rows]) % len(self._requests)]
                taken_ns[bucket.rows].append(self._engine.run(bucket, [(request, 0, bucket.rows)]).launch_ns)
        return max(rows / float(np.median(taken)) * 1e9 for rows, taken in taken_ns.items())


def served_ratios(model: Model, path: Path, *, quick: bool) -> Ratios:
    """Server, echo and forward on one core, in turn; the client on another."""
    if len(os.sched_getaffinity(0)) < 2:
        print("# served and overhead are left out: they need two cores")
        return {}
    server_cpu, client_cpu = two_cpus()
    alone = InProcess(model)
    ratios: Ratios = {"served": [], "overhead": []}
    with tempfile.TemporaryDirectory(prefix="narsil-") as folder:
        small = save_small(model.spec, Path(folder) / "small")
        bind, small_bind, echo_bind = (f"ipc://{folder}/{name}" for name in ("served", "served-small", "echo"))
        with (
            Served(path, bind, cpu=server_cpu),
            Served(small, small_bind, cpu=server_cpu),
            Process([sys.executable, str(ECHO), echo_bind, str(small), str(ROWS)], cpu=server_cpu),
        ):
            many, one = (messages(model.spec, rows=ROWS, in_flight=count) for count in (IN_FLIGHT, 1))
            for _ in range(2 if quick else ROUNDS):
                with pinned(server_cpu):
                    alone_per_s = alone.samples_per_s(SECONDS)
                with pinned(client_cpu):
                    load = closed_loop([bind], many, rows=ROWS, seconds=SECONDS)
                    ratios["served"].append(load.samples_per_s / alone_per_s)
                    server_us, echo_us = (
                        _beyond_launch_us(*each, one) for each in ((small_bind, False), (echo_bind, True))
                    )
                    ratios["overhead"].append(server_us / echo_us)
    return ratios


def _beyond_launch_us(bind: str, echo: bool, places: list[list[Message]]) -> float:
    load = closed_loop([bind], places, rows=ROWS, seconds=SECONDS / 2, echo=echo)
    return float(np.median(load.beyond_launch_us()))

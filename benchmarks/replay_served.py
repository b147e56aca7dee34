"""Part of replay.py: the server on the GPU over ipc, one request in flight, and sixteen from several processes."""

import tempfile

from benchmarks.client_processes import client_loads
from benchmarks.device_clock import Rig, Rows, Tables
from benchmarks.load import pooled
from benchmarks.processes import Served

REQUEST_ROWS = 100
PRECISION = "bf16"
# Requests in flight, and the processes that keep them there: one process would be the limit itself.
LOADS = ((1, 1), (16, 4))


def served(rig: Rig) -> Tables:
    """100-row requests; every client warms up for a fifth of its time, which is not counted."""
    seconds, rounds = (0.2, 1) if rig.quick else (2.0, 3)
    rows: Rows = []
    with tempfile.TemporaryDirectory(prefix="narsil-") as folder:
        where = rig.device.torch_device.type
        with Served(rig.path, f"ipc://{folder}/s", precision=PRECISION, device=where) as server:
            for in_flight, processes in LOADS:
                loads = [
                    client_loads(server.endpoints, rig.model.spec, rows=REQUEST_ROWS,
                                 in_flight=in_flight, processes=processes, seconds=seconds)
                    for _ in range(rounds)
                ]  # fmt: skip
                whole = pooled([load for together in loads for load in together])
                p50_us, p99_us = whole.round_trip(0.5), whole.round_trip(0.99)
                samples_per_s = sum(load.samples_per_s for together in loads for load in together) / rounds
                rows.append({"in flight": in_flight, "client processes": processes, "samples/s": samples_per_s,
                             "p50 us": p50_us, "p99 us": p99_us, "p99/p50": p99_us / p50_us})  # fmt: skip
    return {f"served over ipc, {REQUEST_ROWS}-row requests, {PRECISION}": rows}

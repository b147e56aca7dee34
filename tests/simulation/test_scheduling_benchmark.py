"""The scheduling benchmark on little traffic: every table has its rows, and a trace is put beside its simulation."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import scheduling
from benchmarks.scheduling_rig import bench_of
from narsil_graph.simulation.arrivals import Arrivals, constant
from narsil_graph.trace import Recorder, TraceHeader
from narsil_transport.status import Status

BENCH = bench_of(None, seeds=1, seconds=0.5)


def test_every_table_compares_the_policies() -> None:
    assert len(scheduling.loads(BENCH)) == 3 * len(BENCH.policies())
    assert len(scheduling.saturation(BENCH)) == len(BENCH.policies())
    assert {row["load"] for row in scheduling.overload(BENCH, 0.3)} == {1.5, 3.0}
    assert [row["policy"] for row in scheduling.burst(BENCH, 2)] == ["by cost", "timeout 1.0 ms"]


def test_trace_of_a_simulated_server_is_predicted_exactly(tmp_path: Path) -> None:
    arrivals = Arrivals.drawn(np.arange(300) * 3_000_000, constant(100)(np.random.default_rng(0), 300), ids_per_row=1)
    outcome = BENCH.run(arrivals, BENCH.by_cost(), 0)
    header = TraceHeader(model="m", version="v", machine="here", ladder=BENCH.ladder, started_unix_ns=0)
    recorder = Recorder(tmp_path / "trace", header=header, size_mib_max=1, began_ns=0)
    for request, server_ns in zip(outcome.requests, outcome.server_ns, strict=True):
        recorder.record(
            arrival_ns=int(request["received_ns"]), rows=int(request["rows"]), ids=int(request["rows"]), deadline_us=0,
            latency_us=int(server_ns) // 1000, status=Status.OK, bulk=False,
        )  # fmt: skip
    recorder.close()
    for row in scheduling.against(tmp_path / "trace", BENCH):
        assert row["ratio"] == pytest.approx(1.0, abs=0.01)

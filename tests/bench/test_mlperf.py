"""LoadGen itself drives a server, where it is installed."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.mlperf_sut import Sut
from narsil_client.dealer import connect
from narsil_graph.bench.requests import RequestPool
from narsil_graph.errors import UsageFailure
from narsil_graph.simulation.arrivals import constant
from tests.bench.spec_server import SPEC, SpecServer
from tests.client.fake_server import Answer, FakeServer, overloaded, scored
from tests.engine.tiny import Shape

pytest.importorskip("mlperf_loadgen")
from benchmarks import mlperf

ROWS = 5
POOL = RequestPool(SPEC, constant(ROWS), 0, mlperf.POOL_REQUESTS)


@contextmanager
def rig(answer: Answer, folder: Path) -> Generator[mlperf.Rig]:
    with FakeServer(answer) as server:
        dealer = connect([server.endpoint], inflight_max=16, context=None)
        try:
            with Sut(dealer, POOL, mlperf.complete, in_flight_max=16) as sut:
                yield mlperf.Rig(sut, folder)
        finally:
            dealer.close()


def test_single_stream_run_is_valid(tmp_path: Path) -> None:
    with rig(scored, tmp_path) as made:
        result = mlperf.single_stream(made, 0.1, expected_us=20.0)
    assert result.verdict == "VALID"
    assert made.rows_per_request == ROWS


def test_offline_run_through_a_window_is_valid(tmp_path: Path) -> None:
    with rig(scored, tmp_path) as made:
        assert mlperf.offline(made, 0.0, rate=1.0, requests_min=200).verdict == "VALID"


def test_server_run_that_cannot_meet_its_latency_says_so(tmp_path: Path) -> None:
    with rig(scored, tmp_path) as made:
        result = mlperf.server(made, 0.1, 100, rate=1000.0, slo_ms=0.001)
    assert "latency" in result.problems and not result.within_slo


def test_endpoints_of_different_models_are_refused() -> None:
    with SpecServer(scored) as first, SpecServer(scored, Shape(dim=4).spec()) as other:
        assert mlperf.spec_of([first.endpoint, first.endpoint]) == SPEC
        with pytest.raises(UsageFailure, match=f"^{other.endpoint} serves another model than {first.endpoint}$"):
            mlperf.spec_of([first.endpoint, other.endpoint])


def test_run_with_a_refusal_has_no_result(tmp_path: Path) -> None:
    with rig(overloaded, tmp_path) as made, pytest.raises(SystemExit, match="refused OVERLOADED"):
        mlperf.offline(made, 0.0, rate=1.0, requests_min=10)

"""Coordinated omission: a pause of the server shows where latency counts from the intended time, and only there."""

import numpy as np

from narsil_graph.bench.driver import closed_loop, open_loop
from narsil_graph.bench.load_result import LoadResult
from narsil_graph.bench.log import Log
from tests.bench.virtual_server import MS, POOL, VirtualServer

PAUSE_US = 200_000
# 1,000 requests/s for 10 s: a pause of 200 ms is in the way of one in fifty.
STEP_NS, COUNT = MS, 10_000


def paused() -> VirtualServer:
    """Serves 10,000 requests/s, four at most under way, but for 200 ms in the middle."""
    return VirtualServer(service_ns=MS // 10, room=4, paused_ns=(5000 * MS, 5200 * MS))


def opened(server: VirtualServer) -> Log:
    return open_loop(server, POOL, np.arange(COUNT, dtype=np.int64) * STEP_NS, clock=server.clock)


def test_pause_shows_in_p999_of_the_open_loop_and_the_naive_measure_hides_it() -> None:
    result = LoadResult.of(opened(paused()))
    assert result.latency is not None and result.naive is not None
    assert result.latency.p999 > 0.9 * PAUSE_US
    # Only the four that were under way know of it.
    assert result.naive.p999 < 0.01 * PAUSE_US < 0.9 * PAUSE_US < result.naive.max


def test_share_of_late_requests_is_that_of_the_pause() -> None:
    late = opened(paused()).latency_us > PAUSE_US / 2
    assert 0.009 < late.mean() < 0.013


def test_closed_loop_hides_the_pause() -> None:
    server = paused()
    result = LoadResult.of(closed_loop(server, POOL, 4, 6.0, clock=server.clock))
    assert result.latency is not None
    assert result.latency.p999 < 0.01 * PAUSE_US < 0.9 * PAUSE_US < result.latency.max


def test_without_a_pause_both_measures_agree() -> None:
    result = LoadResult.of(opened(VirtualServer(service_ns=MS // 10, room=4)))
    assert result.latency is not None and result.naive is not None
    assert result.latency.p999 < result.naive.p999 + 100

"""Peer: eager PyTorch + FBGEMM behind Ray Serve, batching. Settings: benchmarks/peers/ray_server.py."""

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.peers.http_subject import HttpSubject
from benchmarks.peers.process import running
from benchmarks.processes import free_ports
from narsil_graph.bench.subject import Started

# Ray Serve's own switch for its fast paths: no thread between the server and the model, HTTP straight to the replicas.
VARIABLES = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
}


@contextmanager
def start(model: Path) -> Generator[Started]:
    """A server of ``model``. UsageFailure where the peer is not installed, or did not start."""
    port = free_ports(3)
    server = "bin/python", "-m", "benchmarks.peers.ray_server", model.resolve(), port
    # HAProxy's own two: another Ray on this machine has the ones that are theirs by default.
    others = {"RAY_SERVE_HAPROXY_STATS_PORT": str(port + 1), "RAY_SERVE_HAPROXY_METRICS_PORT": str(port + 2)}
    with running("ray", *server, **(VARIABLES | others)) as peer:
        yield Started(partial(HttpSubject, peer.address), peer.pids)

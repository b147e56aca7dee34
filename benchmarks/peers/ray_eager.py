"""Peer: eager PyTorch + FBGEMM behind Ray Serve, batching. Settings: benchmarks/peers/ray_server.py."""

import tempfile
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


# Where HAProxy has its files, which is not below TMPDIR.
FILES = {
    "CONFIG_FILE_LOC": "haproxy.cfg",
    "SOCKET_PATH": "admin.sock",
    "METRICS_SOCKET_PATH": "metrics.sock",
    "SERVER_STATE_BASE": "",
    "SERVER_STATE_FILE": "server-state",
}


@contextmanager
def start(model: Path) -> Generator[Started]:
    """A server of ``model``. UsageFailure where the peer is not installed, or did not start."""
    port = free_ports(3)
    server = "bin/python", "-m", "benchmarks.peers.ray_server", model.resolve(), port
    # HAProxy's own two: another Ray on this machine has the ones that are theirs by default.
    others = {"RAY_SERVE_HAPROXY_STATS_PORT": str(port + 1), "RAY_SERVE_HAPROXY_METRICS_PORT": str(port + 2)}
    with tempfile.TemporaryDirectory() as folder:
        files = {f"RAY_SERVE_HAPROXY_{name}": str(Path(folder, file)) for name, file in FILES.items()}
        with running("ray", *server, **(VARIABLES | others | files)) as peer:
            yield Started(partial(HttpSubject, peer.address), peer.pids)

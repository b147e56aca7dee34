"""Peer: eager PyTorch + FBGEMM behind LitServe, batching. Settings: benchmarks/peers/litserve_server.py."""

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.peers.http_subject import HttpSubject
from benchmarks.peers.process import running
from benchmarks.processes import free_ports
from narsil_graph.bench.subject import Started


@contextmanager
def start(model: Path) -> Generator[Started]:
    """A server of ``model``. UsageFailure where the peer is not installed, or did not start."""
    server = "bin/python", "-m", "benchmarks.peers.litserve_server", model.resolve(), free_ports(1)
    with running("litserve", *server) as peer:
        yield Started(partial(HttpSubject, peer.address), peer.pids)

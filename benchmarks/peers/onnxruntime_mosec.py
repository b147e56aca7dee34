"""Peer: ONNX Runtime behind mosec, batching. Settings: benchmarks/peers/mosec_server.py."""

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
    options = "--address", "127.0.0.1", "--port", free_ports(1)
    server = "bin/python", "-m", "benchmarks.peers.onnxruntime_server", *options
    with running("onnxruntime", *server, MODEL=str(model.resolve())) as peer:
        yield Started(partial(HttpSubject, peer.address), peer.pids)

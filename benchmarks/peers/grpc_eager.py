"""Peer: eager PyTorch + FBGEMM behind plain grpcio, no batching. Settings: benchmarks/peers/grpc_eager_server.py."""

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.peers.grpc_subject import GrpcSubject
from benchmarks.peers.process import running
from narsil_graph.bench.subject import Started


@contextmanager
def start(model: Path) -> Generator[Started]:
    """A server of ``model``. UsageFailure where the peer is not installed, or did not start."""
    with running("grpc_eager", "bin/python", "-m", "benchmarks.peers.grpc_eager_server", model.resolve()) as peer:
        yield Started(partial(GrpcSubject, peer.address), peer.pids)

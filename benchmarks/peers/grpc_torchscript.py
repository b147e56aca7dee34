"""Peer: a C++ gRPC server with one TorchScript module, no batching, as TorchRec's inference server is built.

Settings: benchmarks/peers/torchscript_grpc/main.cpp.
"""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.peers.grpc_subject import GrpcSubject
from benchmarks.peers.process import finished, running
from narsil_graph.bench.subject import Started

PEER = "torchscript_grpc"


@contextmanager
def start(model: Path) -> Generator[Started]:
    """A server of ``model``, exported first. UsageFailure where the peer is not installed, or did not start."""
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder) / "module.pt"
        finished(PEER, "bin/python", "-m", "benchmarks.peers.torchscript_grpc.export", model.resolve(), module)
        with running(PEER, "build/torchscript_grpc", module) as peer:
            yield Started(partial(GrpcSubject, peer.address), peer.pids)

"""Peer: ONNX Runtime behind mosec, batching: its best rate. Settings: benchmarks/peers/mosec_server.py."""

from pathlib import Path

from benchmarks.peers.mosec_subject import mosec
from narsil_graph.bench.subject import Starting


def start(model: Path) -> Starting:
    """A server of ``model``. UsageFailure where the peer is not installed, or did not start."""
    # At 16 in flight 7 % more samples/s than one by one, as many as with 4; but a request alone waits for a second.
    return mosec("onnxruntime", "onnxruntime_server", model, requests_max=2)

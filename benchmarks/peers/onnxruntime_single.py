"""Peer: ONNX Runtime behind mosec, request by request: its best latency. Settings: benchmarks/peers/mosec_server.py."""

from pathlib import Path

from benchmarks.peers.mosec_subject import mosec
from narsil_graph.bench.subject import Starting


def start(model: Path) -> Starting:
    """A server of ``model``. UsageFailure where the peer is not installed, or did not start."""
    return mosec("onnxruntime", "onnxruntime_server", model, requests_max=1)

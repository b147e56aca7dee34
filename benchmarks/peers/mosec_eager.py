"""Peer: eager PyTorch + FBGEMM behind mosec. Settings: benchmarks/peers/mosec_server.py."""

from pathlib import Path

from benchmarks.peers.mosec_subject import mosec
from narsil_graph.bench.subject import Starting


def start(model: Path) -> Starting:
    """A server of ``model``. UsageFailure where the peer is not installed, or did not start."""
    # Batches of 2 and 4 gave no more samples/s, and with one in flight they wait for half a forward and more.
    return mosec("mosec", "mosec_server", model, requests_max=1)

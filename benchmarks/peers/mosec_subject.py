"""A server of benchmarks/peers/mosec_server.py, or of one that builds on it."""

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.peers.http_subject import HttpSubject
from benchmarks.peers.process import running
from benchmarks.processes import free_ports
from narsil_graph.bench.subject import Started


@contextmanager
def mosec(environment: str, server: str, model: Path, *, requests_max: int) -> Generator[Started]:
    """``benchmarks.peers.SERVER`` with ``model``, batches of ``requests_max`` at most.

    UsageFailure where the environment is not installed, or the server did not start.
    """
    command = "bin/python", "-m", f"benchmarks.peers.{server}", "--address", "127.0.0.1", "--port", free_ports(1)
    variables = {"MODEL": str(model.resolve()), "REQUESTS_MAX": str(requests_max)}
    with running(environment, *command, **variables) as peer:
        yield Started(partial(HttpSubject, peer.address), peer.pids)

"""A device that fails takes the process with it: everyone who waits is told, and nobody waits for a dead context."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("zmq")

from narsil_graph.model.weights import load_model
from narsil_transport.status import Status
from narsil_transport.wire import RefusalReply, ScoresReply
from tests.gpu.faulty_server import ASKED_BY
from tests.serving.peers import Peer, one_hot
from tests.serving.processes import DEMO, ENVIRONMENT, ServerProcess

pytestmark = pytest.mark.cuda


def test_device_assertion_ends_the_server_and_those_in_flight_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where nothing is installed, FBGEMM and ZeroMQ lie on this process's own path.
    paths = [ENVIRONMENT["PYTHONPATH"], os.environ.get("PYTHONPATH", "")]
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", os.pathsep.join(filter(None, paths)))
    request = one_hot(load_model(DEMO), 8)
    poisoned = replace(request, dense=request.dense.copy())
    poisoned.dense[0, 0] = ASKED_BY
    options = ("--device", "cuda", "--buckets", "1,8")
    with (
        ServerProcess(tmp_path, *options, python=("-m", "tests.gpu.faulty_server")) as server,
        Peer(server.endpoint) as peer,
    ):
        assert isinstance(peer.ask(request), ScoresReply)
        for _ in range(3):
            peer.send(poisoned)
        replies = [peer.receive() for _ in range(3)]
        assert all(isinstance(reply, RefusalReply) for reply in replies)
        refusals = {reply.refusal.status for reply in replies if isinstance(reply, RefusalReply)}
        assert Status.UNAVAILABLE in refusals and refusals <= {Status.UNAVAILABLE, Status.DRAINING}
        assert server.ended() != 0
        assert "CUDA failed while" in server.log

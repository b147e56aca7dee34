"""Peers that speak ZeroMQ by hand, to break it: what happens to them, and what everyone else notices."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

import pytest

from narsil_client import Client, NarsilError
from narsil_graph.model.weights import Model
from narsil_transport.messages import ControlRequest, Operation
from narsil_transport.wire import encode_request
from tests.hostile.siege import resident_mib
from tests.hostile.witness import Witness
from tests.hostile.zmtp import RawPeer, connection
from tests.serving.processes import ServerProcess

GROWTH_MIB_MAX = 50
MEMORY_MAX_MIB = 360
IDLE = 1000
# A frame that no memory holds.
TERABYTE = 1 << 40


@pytest.fixture(scope="module")
def tcp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Room for all idle connections and the good ones, and a limit on its memory."""
    soft, hard = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (hard, hard))
    limits = ("--memory-max", MEMORY_MAX_MIB, "--connections-max", IDLE)
    folder = tmp_path_factory.mktemp("tcp")
    with ServerProcess(folder, "--buckets", "1,8", *limits, bind="tcp://127.0.0.1:*") as running:
        yield running
        assert running.stop() == 0, running.log
        assert "Traceback" not in running.log
    setrlimit(RLIMIT_NOFILE, (soft, hard))


def test_announced_terabyte_is_hung_up_on_and_nobody_notices(tcp_server: ServerProcess, model: Model) -> None:
    before_mib = resident_mib(tcp_server.process.pid)
    with Witness(tcp_server.endpoint, model=model) as witness:
        for _ in range(20):
            with RawPeer(tcp_server.endpoint) as peer:
                # Only the header of the frame: flags, and how long it would be.
                peer.socket.sendall(b"\x02" + TERABYTE.to_bytes(8, "big") + b"x")
                assert peer.hears_its_end()
            witness.ask()
        assert witness.saw_only_right_answers(wait_s_max=0.5)
    assert resident_mib(tcp_server.process.pid) - before_mib < GROWTH_MIB_MAX


def test_peer_that_never_reads_is_no_longer_served_and_nobody_notices(tcp_server: ServerProcess, model: Model) -> None:
    before_mib = resident_mib(tcp_server.process.pid)
    (question,) = encode_request(ControlRequest(1, Operation.METADATA))
    with Witness(tcp_server.endpoint, model=model) as witness, RawPeer(tcp_server.endpoint) as deaf:
        for _ in range(100):
            for _ in range(200):
                deaf.send(question, more=False)
            witness.ask()
        peers = witness.peers()
        assert peers["slow"] == 1 and peers["unserved_messages"] > 0, peers
        assert witness.saw_only_right_answers(wait_s_max=0.5)
        assert resident_mib(tcp_server.process.pid) - before_mib < GROWTH_MIB_MAX
        deaf.socket.close()
        # Once it has gone, what was kept for it goes, too.
        assert witness.sees(lambda: witness.peers()["slow"] == 0, within_s=5)


def test_message_that_never_ends_is_cut_before_memory_runs_out(tcp_server: ServerProcess, model: Model) -> None:
    part, sent_mib, most_mib = bytes(1 << 16), 0.0, 0.0
    with Witness(tcp_server.endpoint, model=model) as witness, RawPeer(tcp_server.endpoint) as endless:
        # It is reset, or, if its window was shut at that moment, goes on waiting for a server that has left.
        endless.socket.settimeout(1)
        with pytest.raises(OSError, match=r"timed out|reset by peer|Broken pipe"):
            while sent_mib < 3 * MEMORY_MAX_MIB:
                for _ in range(32):
                    endless.send(part, more=True)
                sent_mib += 32 / 16
                most_mib = max(most_mib, resident_mib(tcp_server.process.pid))
                witness.ask()
        # The cut is everyone's: a good client's connection comes back, and its memory-short refusals end.
        witness.ask_for(1)
        assert set(witness.outcomes) <= {"right", "Overloaded"}, witness.outcomes
        assert max(witness.waits_s) < 2
        assert witness.ask() == "right"
        assert witness.connections()["memory_cuts"] >= 1
    assert most_mib < MEMORY_MAX_MIB + GROWTH_MIB_MAX
    assert resident_mib(tcp_server.process.pid) < MEMORY_MAX_MIB * 0.9


def answered(endpoint: str) -> bool:
    """Whether a new client gets an answer at once, or else a typed failure."""
    with Client(endpoint, timeout_s=1) as newcomer:
        try:
            newcomer.health()
        except NarsilError:
            return False
    return True


def test_thousand_idle_connections_keep_out_newcomers_only_until_their_handshake_is_late(
    tcp_server: ServerProcess, model: Model
) -> None:
    before_mib = resident_mib(tcp_server.process.pid)
    with Witness(tcp_server.endpoint, model=model) as witness, ExitStack() as idle:
        begin = time.monotonic()
        for number in range(IDLE):
            idle.enter_context(connection(tcp_server.endpoint))
            if number % 50 == 0:
                witness.ask()
        witness.ask_for(0.5)
        assert witness.saw_only_right_answers(wait_s_max=0.5)
        assert resident_mib(tcp_server.process.pid) - before_mib < GROWTH_MIB_MAX
        while not answered(tcp_server.endpoint):
            assert time.monotonic() - begin < 9
            witness.ask_for(0.2)
        assert witness.saw_only_right_answers(wait_s_max=0.5)


def test_connection_that_does_not_speak_zeromq_is_hung_up_on(tcp_server: ServerProcess, model: Model) -> None:
    with Witness(tcp_server.endpoint, model=model) as witness:
        for payload in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 20, b"\x16\x03\x01" + bytes(200), b"\xff" * 64):
            with connection(tcp_server.endpoint) as stranger:
                stranger.sendall(payload)
                witness.ask()
                stranger.shutdown(socket.SHUT_WR)
                while stranger.recv(4096):
                    pass
        assert witness.saw_only_right_answers(wait_s_max=0.5)

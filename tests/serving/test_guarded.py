"""The command's guards, in processes of their own: keys, memory, connections, and workers that are told the same."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import pytest

from narsil_graph.model.weights import Model
from narsil_transport.status import Status
from narsil_transport.wire import RefusalReply, ScoresReply
from tests.serving.keys import Keys
from tests.serving.peers import Peer, assert_right, one_hot
from tests.serving.processes import PATIENCE_S, ServerProcess
from tests.serving.test_workers import worker_pids
from tests.transport.raw_peer import connected, part

MEMORY_MAX_MIB = 600


def wait_until(happened: Callable[[], bool], server: ServerProcess) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end and server.process.poll() is None, server.log
        time.sleep(0.01)


def resident_mib(pids: Iterable[int]) -> int:
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


@pytest.mark.parametrize("workers", [1, 2])
def test_revoked_key_stops_at_a_hangup_signal_on_the_same_connection(
    tmp_path: Path, model: Model, workers: int
) -> None:
    keys = Keys(tmp_path)
    arguments = ("--buckets", "8", "--workers", workers, *keys.arguments)
    with ServerProcess(tmp_path, *arguments) as server, ExitStack() as closing:
        _, *words = server.ready_line.split()
        endpoints = [word for word in words if word.startswith("ipc://")]
        assert len(endpoints) == workers
        peers = [closing.enter_context(keys.peer(endpoint)) for endpoint in endpoints]
        request = one_hot(model, 3)
        for peer in peers:
            assert_right(peer.scores(request), model, request)
        keys.revoke()
        server.process.send_signal(signal.SIGHUP)
        for peer in peers:
            end = time.monotonic() + PATIENCE_S
            statuses: list[Status] = []
            while Status.UNAUTHORIZED not in statuses:
                assert time.monotonic() < end
                peer.send(request)
                reply = peer.receive()
                statuses.append(reply.refusal.status if isinstance(reply, RefusalReply) else Status.OK)
        assert server.stop() == 0
        assert "Traceback" not in server.log


def test_unfinished_messages_cannot_take_the_memory_and_a_good_client_is_served_on(
    tmp_path: Path, model: Model
) -> None:
    arguments = ("--buckets", "8", "--memory-max", MEMORY_MAX_MIB)
    with ServerProcess(tmp_path, *arguments) as server, Peer(server.endpoint) as watcher:
        body, sent_mib, most_mib = bytes(400 << 10), 0, 0
        raw = connected(server.endpoint)
        cuts = 0
        while cuts < 2:
            try:
                raw.sendall(part(body) * 10)
                sent_mib += 4
            except OSError:
                raw.close()
                raw = connected(server.endpoint)
                cuts += 1
            most_mib = max(most_mib, resident_mib([server.process.pid]))
            assert sent_mib < 100 * MEMORY_MAX_MIB
        raw.close()
        # What comes while the server notices: a look each 20 ms.
        assert most_mib < 1.5 * MEMORY_MAX_MIB, most_mib

        def served() -> bool:
            # What the watcher sends before it has noticed the cut is lost.
            watcher.send(one_hot(model, 3))
            return bool(watcher.socket.poll(50)) and isinstance(watcher.receive(), ScoresReply)

        wait_until(served, server)
        with Peer(server.endpoint) as fresh:
            assert fresh.metadata().meta["counters"]["connections"]["memory_cuts"] >= 2
        assert server.stop() == 0
        assert "Traceback" not in server.log


def test_thousand_idle_connections_cost_the_served_one_nothing(tmp_path: Path, model: Model) -> None:
    with ServerProcess(tmp_path, "--buckets", "8") as server, Peer(server.endpoint) as good, ExitStack() as closing:
        request = one_hot(model, 3)
        good.scores(request)
        for _ in range(1010):
            closing.enter_context(connected(server.endpoint))
        wait_until(lambda: good.metadata().meta["counters"]["connections"]["refused"] >= 11, server)
        assert good.metadata().meta["counters"]["connections"]["open"] == 1000
        assert_right(good.scores(request), model, request)
        assert server.stop() == 0


def test_hangup_of_a_terminal_ends_a_server_without_keys(tmp_path: Path) -> None:
    # Under nohup the signal is ignored, and what is ignored is inherited.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with ServerProcess(tmp_path, "--buckets", "8") as server:
            assert server.stop(signal.SIGHUP) == -signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)


def test_options_of_the_socket_reach_the_workers(tmp_path: Path) -> None:
    arguments = ("--workers", 2, "--buckets", "8", "--window", 7, "--connections-max", 33)
    with ServerProcess(tmp_path, *arguments) as server:
        assert len(worker_pids(server.process.pid)) == 2
        with Peer(f"ipc://{tmp_path}/s.1") as peer:
            meta = peer.metadata().meta
            assert (meta["window"], meta["limits"]["connections_max"]) == (7, 33)
        assert server.stop() == 0

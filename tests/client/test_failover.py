"""Servers that go, stay away and come back, over real connections, for both clients."""

import asyncio
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from time import monotonic

import pytest

from narsil_client import AsyncClient, Client, Draining, RequestTimeout, ServerLost, ServerUnreachable
from tests.client.fake_server import DENSE, IDS, FakeServer, Reversed, draining, grants_two, scored, silent
from tests.client.test_aio import SUMS, run

# Far less than any time-out, far more than a machine with other work needs.
SOON_S = 20


def ids_seen(server: FakeServer) -> list[int]:
    return [request.request_id for request in server.seen]


def wait_until_seen(server: FakeServer, count: int) -> None:
    give_up = monotonic() + SOON_S
    while len(server.seen) < count and monotonic() < give_up:
        pass
    assert len(server.seen) >= count


def connect_to_both(client: Client, one: FakeServer, two: FakeServer) -> None:
    """HEALTH goes to each connected server in turn."""
    give_up = monotonic() + SOON_S
    while not (one.asked and two.asked) and monotonic() < give_up:
        client.health()
    assert one.asked and two.asked


def test_the_calls_of_a_server_that_vanishes_are_answered_by_the_other() -> None:
    # The other answers once it has all: had it answered any before, more than half would have been its own.
    with FakeServer(silent) as one, FakeServer(Reversed(6)) as two, Client(one.endpoint, two.endpoint) as client:
        connect_to_both(client, one, two)
        pending = [client.submit(dense=DENSE, ids=IDS, timeout_s=SOON_S) for _ in range(6)]
        wait_until_seen(one, 3)
        one.vanish()
        assert [each.result().scores.tolist() for each in pending] == [SUMS] * 6
        assert set(ids_seen(one)) < set(ids_seen(two))
        assert len(two.seen) == 6, "each at most once more"


def test_asyncio_the_calls_of_a_server_that_vanishes_are_answered_by_the_other() -> None:
    async def main() -> None:
        async with AsyncClient(one.endpoint, two.endpoint, timeout_s=SOON_S) as client:
            while not (one.asked and two.asked):
                await client.health()
            pending = [await client.submit(dense=DENSE, ids=IDS) for _ in range(6)]
            wait_until_seen(one, 3)
            one.vanish()
            assert [(await each.result()).scores.tolist() for each in pending] == [SUMS] * 6
            assert len(two.seen) == 6

    with FakeServer(silent) as one, FakeServer(Reversed(6)) as two:
        run(main())


def test_a_call_whose_servers_all_vanish_is_lost_by_the_end_of_its_time() -> None:
    with FakeServer(silent) as one, FakeServer(silent) as two, Client(one.endpoint, two.endpoint) as client:
        connect_to_both(client, one, two)
        pending = [client.submit(dense=DENSE, ids=IDS, timeout_s=0.3) for _ in range(2)]
        wait_until_seen(one, 1)
        wait_until_seen(two, 1)
        one.vanish()
        two.vanish()
        for each in pending:
            with pytest.raises(ServerLost, match="ended before it answered"):
                each.result()


def test_a_call_that_loses_two_servers_does_not_wait_for_more() -> None:
    with FakeServer(silent) as one, FakeServer(silent) as two, Client(one.endpoint, two.endpoint) as client:
        connect_to_both(client, one, two)
        pending = [client.submit(dense=DENSE, ids=IDS, timeout_s=1000) for _ in range(2)]
        wait_until_seen(one, 1)
        wait_until_seen(two, 1)
        moves = pending[0] if ids_seen(one) < ids_seen(two) else pending[1]
        one.vanish()
        while len(two.seen) < 2:
            with suppress(RequestTimeout):
                moves.result(timeout_s=0.01)
        two.vanish()
        with pytest.raises(ServerLost):
            moves.result()


def test_asyncio_a_call_whose_only_server_vanishes_is_lost_by_the_end_of_its_time() -> None:
    async def main() -> None:
        async with AsyncClient(server.endpoint) as client:
            await client.health()
            pending = await client.submit(dense=DENSE, ids=IDS, timeout_s=0.3)
            wait_until_seen(server, 1)
            server.vanish()
            with pytest.raises(ServerLost):
                await pending.result()

    with FakeServer(silent) as server:
        run(main())


def test_a_lost_call_is_answered_by_the_same_server_when_it_is_back(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/server"
    with Client(endpoint, timeout_s=SOON_S) as client:
        with FakeServer(silent, endpoint) as server:
            pending = client.submit(dense=DENSE, ids=IDS)
            wait_until_seen(server, 1)
        with FakeServer(scored, endpoint) as server:
            assert pending.result().scores.tolist() == SUMS
            assert ids_seen(server) == [1]


def test_asyncio_a_lost_call_is_answered_by_the_same_server_when_it_is_back(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/server"

    async def main() -> None:
        async with AsyncClient(endpoint, timeout_s=SOON_S) as client:
            with FakeServer(silent, endpoint) as server:
                pending = await client.submit(dense=DENSE, ids=IDS)
                wait_until_seen(server, 1)
            with FakeServer(scored, endpoint):
                assert (await pending.result()).scores.tolist() == SUMS

    run(main())


def test_a_server_that_comes_back_is_used_again(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/server"
    with FakeServer(scored) as stays, Client(endpoint, stays.endpoint, timeout_s=SOON_S) as client:
        for _ in range(3):
            with FakeServer(scored, endpoint) as comes:
                while not comes.seen:
                    assert client.predict(dense=DENSE, ids=IDS).scores.tolist() == SUMS
            assert client.predict(dense=DENSE, ids=IDS).scores.tolist() == SUMS


def test_an_idle_client_finds_its_restarted_server(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/server"
    with Client(endpoint, timeout_s=SOON_S) as client:
        for _ in range(2):
            with FakeServer(scored, endpoint):
                assert client.predict(dense=DENSE, ids=IDS).scores.tolist() == SUMS


def test_a_killed_server_is_lost_then_unreachable(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/server"
    dies = "import os, sys, zmq; s = zmq.Context().socket(zmq.ROUTER); s.bind(sys.argv[1]); "
    dies += "s.recv(); os.kill(os.getpid(), 9)"
    with subprocess.Popen([sys.executable, "-c", dies, endpoint]) as server, Client(endpoint) as client:
        pending = client.submit(dense=DENSE, ids=IDS, timeout_s=1)
        assert server.wait() == -SIGKILL
        with pytest.raises(ServerLost):
            pending.result()
        with pytest.raises(ServerUnreachable, match="in time"):
            client.predict(dense=DENSE, ids=IDS, timeout_s=0.01)


def test_a_server_that_cuts_a_large_request_off_gets_it_twice_at_most() -> None:
    with FakeServer(scored, frame_bytes_max=200) as server, Client(server.endpoint, timeout_s=SOON_S) as client:
        assert client.predict(dense=DENSE, ids=IDS).scores.tolist() == SUMS
        with pytest.raises(ServerLost):
            client.predict(dense=[[0.0] * 100], ids=IDS[:1])
        assert client.predict(dense=DENSE, ids=IDS).scores.tolist() == SUMS


def test_a_draining_server_has_its_requests_answered_by_the_other() -> None:
    with FakeServer(draining) as one, FakeServer(scored) as two, Client(one.endpoint, two.endpoint) as client:
        connect_to_both(client, one, two)
        for _ in range(6):
            assert client.predict(dense=DENSE, ids=IDS).scores.tolist() == SUMS
        assert len(one.seen) < 3 and len(two.seen) == 6


def test_a_draining_server_without_another_is_believed() -> None:
    with (
        FakeServer(draining) as server,
        Client(server.endpoint, "tcp://127.0.0.1:1") as client,
        pytest.raises(Draining),
    ):
        client.predict(dense=DENSE, ids=IDS)


def test_a_server_never_has_more_unanswered_than_it_grants() -> None:
    with FakeServer(grants_two) as server, Client(server.endpoint) as client:
        client.predict(dense=DENSE, ids=IDS)
        for _ in range(2):
            client.submit(dense=DENSE, ids=IDS)
        with pytest.raises(RequestTimeout, match="no room"):
            client.submit(dense=DENSE, ids=IDS, timeout_s=0.05)
        client.health()
        assert ids_seen(server) == [1, 2, 3]


def test_asyncio_a_server_never_has_more_unanswered_than_it_grants() -> None:
    async def main() -> None:
        async with AsyncClient(server.endpoint) as client:
            await client.predict(dense=DENSE, ids=IDS)
            pending = [await client.submit(dense=DENSE, ids=IDS) for _ in range(2)]
            third = asyncio.create_task(client.predict(dense=DENSE, ids=IDS, timeout_s=0.2))
            await client.health()
            assert len(server.seen) == 3
            pending[0].cancel()
            with pytest.raises(RequestTimeout, match="no answer"):
                await third
            assert len(server.seen) == 4

    with FakeServer(grants_two) as server:
        run(main())


@pytest.mark.parametrize("keep_warm_ms", [0, 1001])
def test_a_client_is_kept_warm_within_limits(keep_warm_ms: int) -> None:
    with pytest.raises(ValueError, match="keep_warm_ms from 1 to 1000"):
        Client("tcp://127.0.0.1:1", keep_warm_ms=keep_warm_ms)


def test_a_warm_client_is_served() -> None:
    with FakeServer(scored) as server, Client(server.endpoint, keep_warm_ms=1) as client:
        assert client.predict(dense=DENSE, ids=IDS).scores.tolist() == SUMS


def test_a_libzmq_with_known_holes_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmq.zmq_version_info", lambda: (4, 3, 3))
    with pytest.raises(ServerUnreachable, match="holes that 4\\.3\\.4 closed"):
        Client("tcp://127.0.0.1:1").open()

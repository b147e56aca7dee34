"""What either client takes back: it tells the server, which then need not score it."""

import asyncio
from pathlib import Path

import pytest

from narsil_client import AsyncClient, Cancelled, Client, RequestTimeout, ServerUnreachable
from tests.client.fake_server import DENSE, IDS, FakeServer, scored, silent
from tests.client.test_aio import SUMS, run


def test_a_timeout_is_cancelled_at_the_server() -> None:
    with FakeServer(silent) as server, Client(server.endpoint) as client:
        client.health()
        with pytest.raises(RequestTimeout):
            client.predict(dense=DENSE, ids=IDS, timeout_s=0.01)
        client.health()
        assert server.cancelled == [2]


def test_only_the_server_that_has_the_request_hears_of_its_cancel() -> None:
    with FakeServer(silent) as one, FakeServer(silent) as two, Client(one.endpoint, two.endpoint) as client:
        for _ in range(4):
            pending = client.submit(dense=DENSE, ids=IDS)
            pending.cancel()
            with pytest.raises(Cancelled):
                pending.result()
        assert one.cancelled == [request.request_id for request in one.seen]
        assert two.cancelled == [request.request_id for request in two.seen]


def test_a_request_that_no_server_took_is_not_cancelled(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/server"
    with Client(endpoint) as client:
        with pytest.raises(ServerUnreachable):
            client.predict(dense=DENSE, ids=IDS, timeout_s=0.01)
        with FakeServer(scored, endpoint) as server:
            client.health()
            assert server.cancelled == []


def test_a_cancelled_request_that_waits_is_refused() -> None:
    with FakeServer(silent) as server, Client(server.endpoint, inflight_max=1) as client:
        pending = client.submit(dense=DENSE, ids=IDS)
        pending.cancel()
        with pytest.raises(Cancelled):
            pending.result()
        pending.cancel()
        client.health()
        assert server.cancelled == [1]


def test_a_request_that_was_answered_when_it_was_cancelled_keeps_its_scores() -> None:
    with FakeServer(scored) as server, Client(server.endpoint) as client:
        pending = client.submit(dense=DENSE, ids=IDS)
        pending.cancel()
        assert pending.result().scores.tolist() == SUMS
        client.health()
        assert server.cancelled == [1]


def test_asyncio_a_timeout_is_cancelled_at_the_server() -> None:
    async def main() -> None:
        async with AsyncClient(server.endpoint) as client:
            await client.health()
            with pytest.raises(RequestTimeout):
                await client.predict(dense=DENSE, ids=IDS, timeout_s=0.01)
            await client.health()
            assert server.cancelled == [2]

    with FakeServer(silent) as server:
        run(main())


def test_asyncio_a_cancelled_predict_is_cancelled_at_the_server() -> None:
    async def main() -> None:
        async with AsyncClient(server.endpoint) as client:
            await client.health()
            task = asyncio.create_task(client.predict(dense=DENSE, ids=IDS))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await client.health()
            assert server.cancelled == [2]

    with FakeServer(silent) as server:
        run(main())


def test_asyncio_a_cancelled_request_that_waits_is_refused() -> None:
    async def main() -> None:
        async with AsyncClient(server.endpoint) as client:
            pending = await client.submit(dense=DENSE, ids=IDS)
            pending.cancel()
            with pytest.raises(Cancelled):
                await pending.result()
            pending.cancel()
            await client.health()
            assert server.cancelled == [1]

    with FakeServer(silent) as server:
        run(main())


def test_asyncio_a_request_that_no_server_took_is_not_cancelled(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/server"

    async def main() -> None:
        async with AsyncClient(endpoint) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.predict(dense=DENSE, ids=IDS), 0.01)
            with FakeServer(scored, endpoint) as server:
                await client.health()
                assert server.cancelled == []

    run(main())

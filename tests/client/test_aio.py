import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from narsil_client import (
    AsyncClient,
    ClientClosed,
    HealthState,
    Overloaded,
    RequestTimeout,
    ServerUnreachable,
)
from tests.client.fake_server import DENSE, IDS, FakeServer, Reversed, overloaded, scored, silent

SUMS = [2.0, 1.0]


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 20))


def test_predict_returns_the_scores() -> None:
    async def main() -> None:
        async with AsyncClient(server.endpoint) as client:
            assert (await client.predict(dense=DENSE, ids=IDS)).scores.tolist() == SUMS

    with FakeServer(scored) as server:
        run(main())


def test_many_at_once_share_a_small_window() -> None:
    async def main() -> None:
        async with AsyncClient(server.endpoint, inflight_max=4) as client:
            calls = [client.predict(dense=[[float(i)]], ids=[[0]]) for i in range(100)]
            assert [each.scores.item() for each in await asyncio.gather(*calls)] == list(range(100))

    with FakeServer(scored) as server:
        run(main())


def test_replies_out_of_order_find_their_requests() -> None:
    async def main() -> None:
        async with AsyncClient(server.endpoint) as client:
            pending = [await client.submit(dense=[[float(i)]], ids=[[0]]) for i in range(3)]
            assert [(await each.result()).scores.item() for each in pending] == [0, 1, 2]
            assert all(each.done() for each in pending)

    with FakeServer(Reversed(3)) as server:
        run(main())


def test_a_refusal_is_raised() -> None:
    async def main() -> None:
        async with AsyncClient(server.endpoint) as client:
            with pytest.raises(Overloaded):
                await client.predict(dense=DENSE, ids=IDS)

    with FakeServer(overloaded) as server:
        run(main())


def test_health_and_metadata() -> None:
    async def main() -> None:
        async with AsyncClient(server.endpoint) as client:
            assert (await client.health()).state is HealthState.READY
            assert (await client.metadata()).meta == {"dense_width": 2}

    with FakeServer(silent) as server:
        run(main())


def test_no_answer_is_a_timeout_that_gives_its_place_back() -> None:
    async def main() -> None:
        async with AsyncClient(server.endpoint, inflight_max=1) as client:
            await client.health()
            for _ in range(2):
                with pytest.raises(RequestTimeout, match=r"no answer in 0\.01 s"):
                    await client.predict(dense=DENSE, ids=IDS, timeout_s=0.01)

    with FakeServer(silent) as server:
        run(main())


def test_a_window_that_stays_full_times_out() -> None:
    async def main() -> None:
        async with AsyncClient(server.endpoint, inflight_max=1) as client:
            await client.submit(dense=DENSE, ids=IDS)
            with pytest.raises(RequestTimeout, match="1 requests stayed in flight"):
                await client.predict(dense=DENSE, ids=IDS, timeout_s=0.01)

    with FakeServer(silent) as server:
        run(main())


def test_an_impatient_result_leaves_the_request_in_flight() -> None:
    async def main() -> None:
        async with AsyncClient(server.endpoint) as client:
            first = await client.submit(dense=DENSE, ids=IDS)
            with pytest.raises(RequestTimeout, match="still in flight"):
                await first.result(timeout_s=0.01)
            await client.predict(dense=DENSE, ids=IDS)
            assert (await first.result()).scores.tolist() == SUMS

    with FakeServer(Reversed(2)) as server:
        run(main())


def test_a_cancelled_predict_gives_its_place_back() -> None:
    async def main() -> None:
        async with AsyncClient(server.endpoint, inflight_max=1) as client:
            await client.health()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.predict(dense=[[1.0]], ids=[[0]]), 0.01)
            assert (await client.predict(dense=[[2.0]], ids=[[0]])).scores.item() == 2.0

    with FakeServer(Reversed(2)) as server:
        run(main())


def test_no_server_is_unreachable_and_takes_no_place() -> None:
    async def main() -> None:
        async with AsyncClient("tcp://127.0.0.1:1", timeout_s=0.01, inflight_max=1) as client:
            for _ in range(2):
                with pytest.raises(ServerUnreachable):
                    await client.predict(dense=DENSE, ids=IDS)

    run(main())


def test_a_blocked_request_goes_out_when_the_server_comes(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/server"

    async def main() -> None:
        async with AsyncClient(endpoint) as client:
            waiting = asyncio.create_task(client.predict(dense=DENSE, ids=IDS))
            await asyncio.sleep(0)
            with FakeServer(scored, endpoint):
                assert (await waiting).scores.tolist() == SUMS

    run(main())


def test_closing_fails_what_is_in_flight_what_is_blocked_and_what_waits_for_room() -> None:
    async def main() -> None:
        for endpoint in (server.endpoint, "tcp://127.0.0.1:1"):
            client = AsyncClient(endpoint, inflight_max=1)
            await client.open()
            tasks = [asyncio.create_task(client.predict(dense=DENSE, ids=IDS)) for _ in range(2)]
            await asyncio.sleep(0)
            await client.close()
            await client.close()
            for task in tasks:
                with pytest.raises(ClientClosed):
                    await task

    with FakeServer(silent) as server:
        run(main())


def test_a_client_that_is_not_open_says_so() -> None:
    async def main() -> None:
        with pytest.raises(ClientClosed, match="not open"):
            await AsyncClient("tcp://127.0.0.1:1").predict(dense=DENSE, ids=IDS)

    run(main())

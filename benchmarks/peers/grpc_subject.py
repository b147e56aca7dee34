"""A connection to a gRPC server that takes and gives the bytes of wire.py."""

import asyncio
import time
from selectors import SelectSelector

import grpc

from benchmarks.peers.wire import decode_reply, encode_request
from narsil_graph.bench.subject import LOST, OK, TIMEOUT, Done, Rows
from narsil_graph.errors import Failure

SERVICE, METHOD = "narsil.Scores", "Score"
OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
CONNECTED_WITHIN_S = 10.0
TIMEOUT_S = 5.0
STATUSES = {grpc.StatusCode.DEADLINE_EXCEEDED: TIMEOUT, grpc.StatusCode.UNAVAILABLE: LOST}


class GrpcSubject:
    """One channel, which multiplexes, on an event loop that runs only in `submit` and `poll`.

    grpc.aio, because grpcio's futures took twice as long here for an echo with one in flight (two threads more are
    woken per call), and more processor time with sixteen.
    """

    def __init__(self, address: str, in_flight_max: int) -> None:
        """Connects. Failure where nothing listens."""
        # Not epoll, whose time-outs are whole milliseconds.
        self._loop = asyncio.SelectorEventLoop(SelectSelector())
        self._channel = self._loop.run_until_complete(_connected(address))
        self._score = self._channel.unary_unary(f"/{SERVICE}/{METHOD}", _registered_method=True)
        self._room = in_flight_max
        self._asking: set[asyncio.Task[None]] = set()
        self._ended: list[Done] = []

    def submit(self, number: int, rows: Rows) -> bool:
        if not self._room:
            return False
        self._room -= 1
        task = self._loop.create_task(self._ask(number, encode_request(rows.dense, rows.ids)))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        self._step()
        return True

    def poll(self, timeout_s: float) -> list[Done]:
        self._step()
        if not self._ended and timeout_s > 0:
            timer = self._loop.call_later(timeout_s, self._loop.stop)
            self._loop.run_forever()
            timer.cancel()
        found, self._ended = self._ended, []
        self._room += len(found)
        return found

    def close(self) -> None:
        self._loop.run_until_complete(self._closed())
        self._loop.close()

    def _step(self) -> None:
        """One turn of the loop: what is ready is done, nothing is waited for."""
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()

    async def _closed(self) -> None:
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        await self._channel.close()

    async def _ask(self, number: int, body: bytes) -> None:
        try:
            scores = decode_reply(await self._score(body, timeout=TIMEOUT_S))
        except grpc.aio.AioRpcError as error:
            code = error.code()
            done = Done(number, time.monotonic_ns(), STATUSES.get(code, code.name))
        else:
            done = Done(number, time.monotonic_ns(), OK, scores)
        self._ended.append(done)
        self._loop.stop()


async def _connected(address: str) -> grpc.aio.Channel:
    channel = grpc.aio.insecure_channel(address, options=OPTIONS)
    try:
        await asyncio.wait_for(channel.channel_ready(), CONNECTED_WITHIN_S)
    except TimeoutError:
        await channel.close()
        raise Failure(f"{address} did not take a connection in {CONNECTED_WITHIN_S:.0f} s") from None
    return channel

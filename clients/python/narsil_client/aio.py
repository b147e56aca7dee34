"""The asyncio client: the same session on the event loop's own selector, with no thread and no zmq.asyncio."""

import asyncio
from collections.abc import Callable
from time import monotonic_ns
from types import TracebackType
from typing import Any, Self, Unpack

import zmq

from narsil_client.arguments import InferArguments, infer_request, timeout_ns
from narsil_client.dealer import READABLE, WRITABLE, Dealer, connect
from narsil_client.errors import no_room, not_open, not_yet, unreachable
from narsil_client.scores import Scores, scores_of
from narsil_client.session import Call, ReplyT, Session, cancels
from narsil_transport.messages import (
    ControlRequest,
    HealthReply,
    InferRequest,
    MetadataReply,
    Operation,
    ScoresReply,
)


class AsyncClient:
    """Client for asyncio: the same arguments, results and errors, for an `async with` block in one event loop.

    Cancelling `predict` gives its place in the window back, and cancels the request at the server. A bare `open` must
    be matched by a `close`.
    """

    def __init__(
        self,
        *endpoints: str,
        timeout_s: float = 5.0,
        inflight_max: int = 64,
        context: zmq.SyncContext | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._timeout_ns = timeout_ns(timeout_s)
        self._inflight_max = inflight_max
        self._context = context
        self._session = Session(inflight_max)
        self._dealer: Dealer | None = None
        self._flights: dict[int, _Flight] = {}

    async def open(self) -> None:
        """Start to connect. Raises ServerUnreachable where an endpoint is malformed; does nothing if open already."""
        if self._dealer is None:
            self._dealer = connect(self._endpoints, inflight_max=self._inflight_max, context=self._context)
            # Made here because they belong to the running loop.
            self._loop = asyncio.get_running_loop()
            self._window = asyncio.Semaphore(self._inflight_max)
            self._writable = asyncio.Event()
            self._loop.add_reader(self._dealer.fd, self._drain)

    async def close(self) -> None:
        """Disconnect. What is in flight fails with ClientClosed; a second close does nothing."""
        if self._dealer is not None:
            dealer, self._dealer = self._dealer, None
            self._loop.remove_reader(dealer.fd)
            for call in self._session.close(monotonic_ns()):
                self._land(call)
            self._writable.set()
            dealer.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def predict(self, *, timeout_s: float | None = None, **arguments: Unpack[InferArguments]) -> Scores:
        """Client.predict."""
        return scores_of(await self._finish(infer_request(**arguments), ScoresReply, timeout_s))

    async def submit(self, *, timeout_s: float | None = None, **arguments: Unpack[InferArguments]) -> "AsyncPending":
        """Client.submit: waits only for room in the window and for a server that takes the request."""
        call, landed = await self._start(infer_request(**arguments), ScoresReply, timeout_s)
        return AsyncPending(self._cancel, call, landed)

    async def health(self, *, timeout_s: float | None = None) -> HealthReply:
        """Client.health."""
        return (await self._finish(ControlRequest(0, Operation.HEALTH), HealthReply, timeout_s)).answer()

    async def metadata(self, *, timeout_s: float | None = None) -> MetadataReply:
        """Client.metadata."""
        return (await self._finish(ControlRequest(0, Operation.METADATA), MetadataReply, timeout_s)).answer()

    async def _finish(
        self, request: InferRequest | ControlRequest, expects: type[ReplyT], timeout_s: float | None
    ) -> Call[ReplyT]:
        call, landed = await self._start(request, expects, timeout_s)
        try:
            await landed.wait()
        except asyncio.CancelledError:
            self._cancel(call)
            self._forget(call)
            raise
        return call

    async def _start(
        self, request: InferRequest | ControlRequest, expects: type[ReplyT], timeout_s: float | None
    ) -> tuple[Call[ReplyT], asyncio.Event]:
        if self._dealer is None:
            raise not_open()
        now_ns = monotonic_ns()
        until_ns = now_ns + (self._timeout_ns if timeout_s is None else timeout_ns(timeout_s))
        if self._window.locked():
            await self._wait_for_room(until_ns)
            now_ns = monotonic_ns()
        else:
            await self._window.acquire()
        try:
            call, frames = self._session.begin(request, expects, now_ns=now_ns, expires_ns=until_ns)
        except BaseException:
            self._window.release()
            raise
        flight = self._flights[call.request_id] = _Flight()
        try:
            await self._send(call, frames)
        except BaseException:
            self._forget(call)
            raise
        if not call.done:
            flight.timer = self._loop.call_later(_seconds(until_ns), self._expire, until_ns)
        return call, flight.landed

    async def _wait_for_room(self, until_ns: int) -> None:
        try:
            async with asyncio.timeout(_seconds(until_ns)):
                await self._window.acquire()
        except TimeoutError:
            raise no_room(self._session.inflight) from None
        if self._dealer is None:
            self._window.release()
            raise not_open()

    async def _send(self, call: Call[Any], frames: list[bytes]) -> None:
        while self._dealer is not None and not self._dealer.send(frames):
            self._writable.clear()
            # A failed send may have taken the edge that the reader waits for, and so may a good one.
            self._drain()
            try:
                async with asyncio.timeout(_seconds(call.expires_ns)):
                    await self._writable.wait()
            except TimeoutError:
                raise unreachable(self._endpoints) from None
        self._drain()

    def _drain(self) -> None:
        """Take every message that has arrived. The last look finds nothing to read, so no edge is lost."""
        if self._dealer is None:
            return
        while (events := self._dealer.events()) & READABLE and (frames := self._dealer.receive(0)):
            call = self._session.receive(frames, monotonic_ns())
            if call is not None:
                self._land(call)
        if events & WRITABLE:
            self._writable.set()

    def _expire(self, until_ns: int) -> None:
        self._drain()
        late = self._session.expire(max(until_ns, monotonic_ns()))
        for call in late:
            self._land(call)
        self._send_to_all(cancels(*late))

    def _cancel(self, call: Call[Any]) -> None:
        if not call.done:
            self._send_to_all(cancels(call))

    def _send_to_all(self, messages: list[bytes]) -> None:
        if self._dealer is not None and messages:
            self._dealer.send_to_all(messages)
            # As after every send: it may have taken the edge that the reader waits for.
            self._drain()

    def _forget(self, call: Call[Any]) -> None:
        self._session.forget(call)
        self._land(call)

    def _land(self, call: Call[Any]) -> None:
        flight = self._flights.pop(call.request_id, None)
        if flight is not None:
            if flight.timer is not None:
                flight.timer.cancel()
            flight.landed.set()
            self._window.release()


class AsyncPending:
    """A submitted request. Its answer is read while the event loop runs."""

    __slots__ = ("_call", "_cancel", "_landed")

    def __init__(self, cancel: Callable[[Call[Any]], None], call: Call[ScoresReply], landed: asyncio.Event) -> None:
        self._cancel = cancel
        self._call = call
        self._landed = landed

    def done(self) -> bool:
        """Whether `result` would return or raise at once."""
        return self._call.done

    def cancel(self) -> None:
        """Pending.cancel."""
        self._cancel(self._call)

    async def result(self, timeout_s: float | None = None) -> Scores:
        """Pending.result. Cancelling this wait leaves the request in flight; `cancel` is what takes it back."""
        if timeout_s is None:
            await self._landed.wait()
        else:
            try:
                async with asyncio.timeout(timeout_ns(timeout_s) / 1e9):
                    await self._landed.wait()
            except TimeoutError:
                raise not_yet(timeout_s) from None
        return scores_of(self._call)


class _Flight:
    """What the loop holds for a call in flight."""

    __slots__ = ("landed", "timer")

    def __init__(self) -> None:
        self.landed = asyncio.Event()
        self.timer: asyncio.TimerHandle | None = None


def _seconds(until_ns: int) -> float:
    return (until_ns - monotonic_ns()) / 1e9

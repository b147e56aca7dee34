"""The asyncio client: the same session on the event loop's own selector, with no thread and no zmq.asyncio."""

import asyncio
from collections.abc import Callable
from time import monotonic_ns
from types import TracebackType
from typing import Any, Self, Unpack

import zmq

from narsil_client.arguments import InferArguments, infer_request, timeout_ns
from narsil_client.call import Call, ReplyT
from narsil_client.curve import Curve
from narsil_client.errors import no_room, not_open, not_yet
from narsil_client.fleet import FAR_NS
from narsil_client.links import LinkOptions, Links
from narsil_client.scores import Scores, scores_of
from narsil_client.session import Session
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
        curve: Curve | None = None,
        keep_warm_ms: int | None = None,
        shm_bytes: int = 0,
    ) -> None:
        self._timeout_ns = timeout_ns(timeout_s)
        self._inflight_max = inflight_max
        self._session = Session(endpoints, inflight_max, shm_bytes, keyed=curve is not None)
        self._options = LinkOptions(2 * inflight_max, context, curve, keep_warm_ms)
        self._links: Links | None = None
        self._flights: dict[int, _Flight] = {}
        self._unsent: dict[int, tuple[Call[Any], asyncio.Event]] = {}
        self._wake: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Client.open."""
        if self._links is None:
            # Made here because they belong to the running loop.
            self._loop = asyncio.get_running_loop()
            self._window = asyncio.Semaphore(self._inflight_max)
            links = Links(
                self._session, self._options, watch=self._watch, unwatch=self._loop.remove_reader, landed=self._land
            )
            links.open(monotonic_ns())
            self._links = links

    async def close(self) -> None:
        """Disconnect. What is in flight fails with ClientClosed; a second close does nothing."""
        if self._links is not None:
            links, self._links = self._links, None
            for call in self._session.close(monotonic_ns()):
                self._land(call)
            if self._wake is not None:
                self._wake.cancel()
            links.close()

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
        if self._links is None:
            raise not_open()
        now_ns = monotonic_ns()
        until_ns = now_ns + (self._timeout_ns if timeout_s is None else timeout_ns(timeout_s))
        if self._window.locked():
            await self._wait_for_room(until_ns)
            now_ns = monotonic_ns()
        else:
            await self._window.acquire()
        try:
            call = self._session.begin(request, expects, now_ns=now_ns, expires_ns=until_ns)
        except BaseException:
            self._window.release()
            raise
        flight = self._flights[call.request_id] = _Flight()
        flight.timer = self._loop.call_later(_seconds(until_ns), self._expire, until_ns)
        self._pump()
        if call.server < 0:
            await self._sent(call)
        return call, flight.landed

    async def _wait_for_room(self, until_ns: int) -> None:
        try:
            async with asyncio.timeout(_seconds(until_ns)):
                await self._window.acquire()
        except TimeoutError:
            raise no_room(self._session.inflight) from None
        if self._links is None:
            self._window.release()
            raise not_open()

    async def _sent(self, call: Call[Any]) -> None:
        """Wait until a server has the call. Raises its error if none ever had."""
        if not call.done:
            sent = asyncio.Event()
            self._unsent[call.request_id] = call, sent
            try:
                await sent.wait()
            except BaseException:
                self._forget(call)
                raise
            finally:
                del self._unsent[call.request_id]
        if call.server < 0:
            call.answer()

    def _watch(self, fd: int) -> None:
        self._loop.add_reader(fd, self._ready, fd)

    def _ready(self, fd: int) -> None:
        if self._links is not None:
            self._links.ready(fd, monotonic_ns())
            self._pump()

    def _pump(self) -> None:
        """Send and take what can be. The last look finds nothing to read, so no descriptor's edge is lost."""
        links, session = self._links, self._session
        if links is None:
            return
        while True:
            now_ns = monotonic_ns()
            if session.waiting:
                links.reconnect(now_ns)
                links.send(now_ns)
            if not links.busy:
                break
            links.drain(now_ns)
        for call, sent in self._unsent.values():
            if call.server >= 0:
                sent.set()
        if session.waiting:
            self._wake_later()

    def _wake_later(self) -> None:
        """While calls wait for a server, time alone may find them one."""
        if self._wake is not None:
            self._wake.cancel()
        wake_ns = self._session.fleet.wake_ns
        self._wake = None if wake_ns == FAR_NS else self._loop.call_later(_seconds(wake_ns), self._pump)

    def _expire(self, until_ns: int) -> None:
        self._pump()
        late = self._session.expire(max(until_ns, monotonic_ns()))
        for call in late:
            self._land(call)
        self._tell(late)

    def _cancel(self, call: Call[Any]) -> None:
        if call.done:
            return
        ended = self._session.cancel(call, monotonic_ns())
        if ended is not None:
            self._land(ended)
        else:
            self._tell([call])

    def _tell(self, calls: list[Call[Any]]) -> None:
        if self._links is not None:
            self._links.cancel(calls)
            self._pump()

    def _forget(self, call: Call[Any]) -> None:
        self._session.forget(call, monotonic_ns())
        self._land(call)

    def _land(self, call: Call[Any]) -> None:
        flight = self._flights.pop(call.request_id, None)
        if flight is not None:
            if flight.timer is not None:
                flight.timer.cancel()
            flight.landed.set()
            self._window.release()
            if call.request_id in self._unsent:
                self._unsent[call.request_id][1].set()


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

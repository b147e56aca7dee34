"""The blocking client."""

import select
from collections.abc import Callable
from time import monotonic_ns
from types import TracebackType
from typing import Any, Self, Unpack

import zmq

from narsil_client.arguments import InferArguments, infer_request, timeout_ns
from narsil_client.call import Call, ReplyT
from narsil_client.curve import Curve
from narsil_client.errors import no_room, not_open, not_yet
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

# A connection that ended is seen at the latest by the first request after so long without a look, and before libzmq
# itself can have made another (after 100 ms at least): so what was sent to one is never taken for lost with the other.
_LOOK_NS = 50_000_000
# How long a wait looks at nothing but the server that has the request.
_SOON_MS = 10
_SOON_NS = _SOON_MS * 1_000_000


class Client:
    """Asks servers for scores, from `open` to `close` or for a `with` block. Not thread-safe: one client per thread.

        with Client("tcp://127.0.0.1:5555") as client:
            scores = client.predict(dense=dense, ids=ids).scores

    `endpoints` are replicas of one model, and need not exist yet. A request goes to the connected one with the fewest
    unanswered. If that one's connection ends first, or it takes no work (DRAINING, UNAVAILABLE), the request is sent
    once more, to any other or to the same one when it is back.
    Every request ends within its `timeout_s`, this one or its own, in a result or a NarsilError: Refused with the
    server's status, RequestTimeout if no answer came, ServerUnreachable if no server took it, ServerLost if those that
    did are gone, HandshakeRefused at once if every server has refused this client. A request that times out is
    cancelled at its server.
    At most `inflight_max` requests are in flight, and at each server no more than it grants. `context` is shared if
    given, and then not terminated. `curve` are the keys for servers that want some. With `keep_warm_ms`, 1 to 1000,
    heartbeats go that often, so that neither side's threads have to be woken: it costs a little of a processor.
    With `shm_bytes`, tensors go through shared memory of that size, one for each server at an ipc endpoint that offers
    it, and in the message wherever they do not fit there; the scores are the same.
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
        self._session = Session(endpoints, inflight_max, shm_bytes, keyed=curve is not None)
        # Twice the window, because libzmq learns what a pipe's reader has taken in steps of half the mark.
        self._options = LinkOptions(2 * inflight_max, context, curve, keep_warm_ms)
        self._links: Links | None = None
        self._poll = select.poll()
        self._look_ns = 0

    def open(self) -> None:
        """Start to connect; does nothing if open already.

        Raises ServerUnreachable where an endpoint is malformed or libzmq is too old, ValueError where `curve`'s file
        cannot be read or is open to others.
        """
        if self._links is None:
            links = Links(
                self._session, self._options, watch=self._watch, unwatch=self._poll.unregister, landed=_nobody_waits
            )
            links.open(monotonic_ns())
            self._links = links

    def close(self) -> None:
        """Disconnect. What is in flight fails with ClientClosed; a second close does nothing."""
        if self._links is not None:
            self._session.close(monotonic_ns())
            self._links.close()
            self._links = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def predict(self, *, timeout_s: float | None = None, **arguments: Unpack[InferArguments]) -> Scores:
        """Score n rows: `dense` with `ids`, or with `lengths` and `values`.

        The other keywords are `model`, `deadline_us`, `priority`, `traceparent`, `user` and `key`; InferArguments
        describes them all. Raises ValueError, before anything is sent, where they cannot be, and otherwise a
        NarsilError.
        """
        call = self._start(infer_request(**arguments), ScoresReply, timeout_s)
        self._wait(call, call.expires_ns)
        return scores_of(call)

    def submit(self, *, timeout_s: float | None = None, **arguments: Unpack[InferArguments]) -> "Pending":
        """Send what `predict` would and return at once, unless the window is full: then as soon as there is room."""
        return Pending(self._wait, self._cancel, self._start(infer_request(**arguments), ScoresReply, timeout_s))

    def health(self, *, timeout_s: float | None = None) -> HealthReply:
        """The state and load of the next connected server in turn. Raises NarsilError."""
        return self._ask(Operation.HEALTH, HealthReply, timeout_s)

    def metadata(self, *, timeout_s: float | None = None) -> MetadataReply:
        """The model specification of the next connected server in turn. Raises NarsilError."""
        return self._ask(Operation.METADATA, MetadataReply, timeout_s)

    def _ask(self, operation: Operation, expects: type[ReplyT], timeout_s: float | None) -> ReplyT:
        call = self._start(ControlRequest(0, operation), expects, timeout_s)
        self._wait(call, call.expires_ns)
        return call.answer()

    def _start(
        self, request: InferRequest | ControlRequest, expects: type[ReplyT], timeout_s: float | None
    ) -> Call[ReplyT]:
        links, session = self._opened(), self._session
        now_ns = monotonic_ns()
        until_ns = now_ns + (self._timeout_ns if timeout_s is None else timeout_ns(timeout_s))
        if now_ns >= self._look_ns:
            self._look(0)
            links.reconnect(now_ns)
        if session.full:
            self._make_room(until_ns)
            now_ns = monotonic_ns()
        call = session.begin(request, expects, now_ns=now_ns, expires_ns=until_ns)
        try:
            links.send(now_ns)
            while call.server < 0 and not call.done:
                self._read(until_ns)
        except BaseException:
            session.forget(call, monotonic_ns())
            raise
        if call.server < 0:
            call.answer()
        return call

    def _make_room(self, until_ns: int) -> None:
        while self._session.full:
            self._read(min(until_ns, self._session.next_expiry_ns))
            if self._session.full and monotonic_ns() >= until_ns:
                raise no_room(self._session.inflight)

    def _wait(self, call: Call[Any], until_ns: int) -> None:
        while not call.done:
            # Most answers come soon and from the server that was asked: waiting in its socket alone is the fastest.
            left_ns = until_ns - monotonic_ns()
            if call.server >= 0 and left_ns > _SOON_NS and self._opened().receive(call.server, _SOON_MS):
                continue
            if not self._read(until_ns):
                return

    def _read(self, until_ns: int) -> bool:
        """Send what waits, or take a message or an event, waiting until `until_ns`; False if by then nothing came.

        What has arrived counts, however late it is read: calls expire only once nothing is left to read.
        """
        links, session = self._opened(), self._session
        now_ns = monotonic_ns()
        waiting = len(session.waiting)
        if waiting:
            links.reconnect(now_ns)
            links.send(now_ns)
            if len(session.waiting) < waiting:
                return True
        came = links.busy and links.step(now_ns)
        if not came:
            wake_ns = min(until_ns, session.fleet.wake_ns) if session.waiting else until_ns
            came = self._look(milliseconds(wake_ns - now_ns))
            now_ns = monotonic_ns()
        if came or now_ns < until_ns:
            return True
        links.cancel(session.expire(now_ns))
        return False

    def _look(self, timeout_ms: int) -> bool:
        """Wait for any server or connection. Whether a message came."""
        links = self._opened()
        descriptors = self._poll.poll(timeout_ms)
        now_ns = monotonic_ns()
        self._look_ns = now_ns + _LOOK_NS
        for fd, _ in descriptors:
            links.ready(fd, now_ns)
        return links.step(now_ns)

    def _watch(self, fd: int) -> None:
        self._poll.register(fd, select.POLLIN)

    def _cancel(self, call: Call[Any]) -> None:
        if not call.done and self._session.cancel(call, monotonic_ns()) is None:
            self._opened().cancel([call])

    def _opened(self) -> Links:
        if self._links is None:
            raise not_open()
        return self._links


def _nobody_waits(call: Call[Any]) -> None:
    """Whoever waits for a call looks at it after each step."""


class Pending:
    """A submitted request. Its answer is read while any call of its client waits, or here."""

    __slots__ = ("_call", "_cancel", "_wait")

    def __init__(
        self,
        wait: Callable[[Call[Any], int], None],
        cancel: Callable[[Call[Any]], None],
        call: Call[ScoresReply],
    ) -> None:
        self._wait = wait
        self._cancel = cancel
        self._call = call

    def done(self) -> bool:
        """Whether `result` would return or raise at once. Reads what has arrived, and does not wait."""
        self._wait(self._call, 0)
        return self._call.done

    def cancel(self) -> None:
        """Ask the server to drop it: `result` raises Cancelled, or returns the scores if it was launched already.

        Does nothing once it is done.
        """
        self._cancel(self._call)

    def result(self, timeout_s: float | None = None) -> Scores:
        """The scores, waiting for them until the request's own time-out, or `timeout_s` if that is sooner.

        Raises NarsilError. After a RequestTimeout by `timeout_s` the request is still in flight: ask again.
        """
        call = self._call
        until_ns = call.expires_ns
        if timeout_s is not None:
            until_ns = min(until_ns, monotonic_ns() + timeout_ns(timeout_s))
        self._wait(call, until_ns)
        if not call.done:
            raise not_yet(timeout_s)
        return scores_of(call)


def milliseconds(left_ns: int) -> int:
    """Rounded up, so that a wait never ends early and spins; 0 for what has passed."""
    return max(-(-left_ns // 1_000_000), 0)

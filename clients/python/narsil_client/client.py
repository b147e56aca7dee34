"""The blocking client."""

from collections.abc import Callable
from time import monotonic_ns
from types import TracebackType
from typing import Any, Self, Unpack

import zmq

from narsil_client.arguments import InferArguments, infer_request, timeout_ns
from narsil_client.dealer import Dealer, connect
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


class Client:
    """Asks servers for scores, from `open` to `close` or for a `with` block. Not thread-safe: one client per thread.

        with Client("tcp://127.0.0.1:5555") as client:
            scores = client.predict(dense=dense, ids=ids).scores

    `endpoints` are replicas of one model: requests go round robin to those that are connected, and need not exist yet.
    Every request ends within its `timeout_s`, this one or its own, in a result or a NarsilError: Refused with the
    server's status, RequestTimeout if no answer came, ServerUnreachable if no server took it. Nothing is retried;
    a request that times out is cancelled at the server.
    At most `inflight_max` requests are in flight. `context` is shared if given, and then not terminated.
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

    def open(self) -> None:
        """Start to connect. Raises ServerUnreachable where an endpoint is malformed; does nothing if open already."""
        if self._dealer is None:
            self._dealer = connect(self._endpoints, inflight_max=self._inflight_max, context=self._context)

    def close(self) -> None:
        """Disconnect. What is in flight fails with ClientClosed; a second close does nothing."""
        if self._dealer is not None:
            self._session.close(monotonic_ns())
            self._dealer.close()
            self._dealer = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def predict(self, *, timeout_s: float | None = None, **arguments: Unpack[InferArguments]) -> Scores:
        """Score n rows: `dense` with `ids`, or with `lengths` and `values`.

        The other keywords are `model`, `deadline_us`, `priority` and `traceparent`; InferArguments describes them
        all. Raises ValueError, before anything is sent, where they cannot be, and otherwise a NarsilError.
        """
        call = self._start(infer_request(**arguments), ScoresReply, timeout_s)
        self._wait(call, call.expires_ns)
        return scores_of(call)

    def submit(self, *, timeout_s: float | None = None, **arguments: Unpack[InferArguments]) -> "Pending":
        """Send what `predict` would and return at once, unless the window is full: then as soon as there is room."""
        return Pending(self._wait, self._cancel, self._start(infer_request(**arguments), ScoresReply, timeout_s))

    def health(self, *, timeout_s: float | None = None) -> HealthReply:
        """The state and load of the next server in turn. Raises NarsilError."""
        return self._ask(Operation.HEALTH, HealthReply, timeout_s)

    def metadata(self, *, timeout_s: float | None = None) -> MetadataReply:
        """The model specification of the next server in turn. Raises NarsilError."""
        return self._ask(Operation.METADATA, MetadataReply, timeout_s)

    def _ask(self, operation: Operation, expects: type[ReplyT], timeout_s: float | None) -> ReplyT:
        call = self._start(ControlRequest(0, operation), expects, timeout_s)
        self._wait(call, call.expires_ns)
        return call.answer()

    def _start(
        self, request: InferRequest | ControlRequest, expects: type[ReplyT], timeout_s: float | None
    ) -> Call[ReplyT]:
        dealer = self._opened()
        now_ns = monotonic_ns()
        until_ns = now_ns + (self._timeout_ns if timeout_s is None else timeout_ns(timeout_s))
        if self._session.full:
            self._make_room(until_ns)
            now_ns = monotonic_ns()
        call, frames = self._session.begin(request, expects, now_ns=now_ns, expires_ns=until_ns)
        try:
            while not dealer.send(frames):
                left_ms = milliseconds(until_ns - monotonic_ns())
                if not left_ms:
                    raise unreachable(self._endpoints)
                dealer.wait_writable(left_ms)
        except BaseException:
            self._session.forget(call)
            raise
        return call

    def _make_room(self, until_ns: int) -> None:
        while self._session.full:
            self._read(min(until_ns, self._session.next_expiry_ns))
            if self._session.full and monotonic_ns() >= until_ns:
                raise no_room(self._session.inflight)

    def _wait(self, call: Call[Any], until_ns: int) -> None:
        while not call.done and self._read(until_ns):
            pass

    def _read(self, until_ns: int) -> bool:
        """Take a message, waiting until `until_ns` for it; False if by then nothing came that finishes a call.

        What has arrived counts, however late it is read: calls expire only once nothing is left to read.
        """
        frames = self._opened().receive(milliseconds(until_ns - monotonic_ns()))
        now_ns = monotonic_ns()
        if frames is not None and self._session.receive(frames, now_ns) is not None:
            return True
        if now_ns < until_ns:
            return True
        self._opened().send_to_all(cancels(*self._session.expire(now_ns)))
        return False

    def _cancel(self, call: Call[Any]) -> None:
        if not call.done:
            self._opened().send_to_all(cancels(call))

    def _opened(self) -> Dealer:
        if self._dealer is None:
            raise not_open()
        return self._dealer


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

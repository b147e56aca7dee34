"""A client's side of the protocol with no socket, clock or thread: it is given the frames and the time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from narsil_client.errors import ClientClosed, NarsilError, RequestTimeout, refused
from narsil_transport.messages import (
    ControlRequest,
    HealthReply,
    InferRequest,
    MetadataReply,
    RefusalReply,
    ScoresReply,
)
from narsil_transport.wire import Frame, WireError, decode_reply, encode_cancel, encode_request

ReplyT = TypeVar("ReplyT", ScoresReply, HealthReply, MetadataReply)


@dataclass(slots=True, eq=False)
class Call(Generic[ReplyT]):
    """One request, from `begin` until it is done: then it has exactly one of `reply` and `error`."""

    request_id: int
    expects: type[ReplyT]
    rows: int
    begun_ns: int
    expires_ns: int
    finished_ns: int = 0
    reply: ReplyT | None = None
    error: NarsilError | None = None

    @property
    def done(self) -> bool:
        """Whether there is an answer, good or bad."""
        return self.reply is not None or self.error is not None

    def answer(self) -> ReplyT:
        """The reply of a call that is done. Raises its NarsilError if it failed."""
        if self.error is not None:
            raise self.error
        assert self.reply is not None, "the call is not done"
        return self.reply


def cancels(*calls: Call[Any]) -> list[bytes]:
    """A message of one frame, CANCEL, for each of these calls that asks for scores: nothing else waits in a queue.

    A call that is not done stays in flight, for the one reply that it still gets.
    """
    return [encode_cancel(call.request_id) for call in calls if call.expects is ScoresReply]


class Session:
    """At most `inflight_max` calls in flight, matched to replies by id, in any order.

    A message that cannot be matched is dropped: a reply that came after its call expired, bytes that are no reply, a
    refusal of a message whose id the server could not read. The last of these, late replies apart, is named in the
    error of the calls that time out around it.
    """

    def __init__(self, inflight_max: int) -> None:
        if inflight_max < 1:
            raise ValueError(f"want inflight_max of at least 1, got {inflight_max}")
        self._inflight_max = inflight_max
        self._inflight: dict[int, Call[Any]] = {}
        # The server answers a message it cannot read with id 0, so no request has it.
        self._last_id = 0
        self._stray = ""
        self._stray_ns = 0

    @property
    def inflight(self) -> int:
        """Calls that are not done."""
        return len(self._inflight)

    @property
    def full(self) -> bool:
        """Whether `begin` has to wait until a call is done."""
        return len(self._inflight) >= self._inflight_max

    @property
    def next_expiry_ns(self) -> int:
        """When the first call in flight expires; there must be one."""
        return min(call.expires_ns for call in self._inflight.values())

    def begin(
        self, request: InferRequest | ControlRequest, expects: type[ReplyT], *, now_ns: int, expires_ns: int
    ) -> tuple[Call[ReplyT], list[bytes]]:
        """Number the request, ids increasing from 1, and return its call and the frames to send.

        `expects` is the class of its good reply. Raises ValueError if the window is full.
        """
        if self.full:
            raise ValueError(f"{self._inflight_max} calls are in flight already")
        request_id = request.request_id = self._last_id + 1
        frames = encode_request(request)
        rows = request.rows if isinstance(request, InferRequest) else 0
        call = Call(request_id, expects, rows, now_ns, expires_ns)
        self._last_id = request_id
        self._inflight[request_id] = call
        return call, frames

    def receive(self, frames: Sequence[Frame], now_ns: int) -> Call[Any] | None:
        """The call that this message finishes, or None where it is dropped. Never raises on any bytes."""
        try:
            reply = decode_reply(frames)
        except WireError as error:
            self._note(str(error), now_ns)
            return None
        call = self._inflight.get(reply.request_id)
        if call is None:
            if not reply.request_id and isinstance(reply, RefusalReply):
                self._note(reply.refusal.detail, now_ns)
            return None
        if isinstance(reply, RefusalReply):
            call.error = refused(reply.refusal)
        elif type(reply) is not call.expects:
            self._note(f"a {type(reply).__name__} for a request that wants a {call.expects.__name__}", now_ns)
            return None
        elif isinstance(reply, ScoresReply) and len(reply.scores) != call.rows:
            self._note(f"{len(reply.scores)} scores for {call.rows} rows", now_ns)
            return None
        else:
            call.reply = reply
        return self._finish(call, now_ns)

    def expire(self, now_ns: int) -> list[Call[Any]]:
        """Fail the calls whose time is up with RequestTimeout, and return them."""
        late = [call for call in self._inflight.values() if call.expires_ns <= now_ns]
        for call in late:
            text = f"no answer in {(call.expires_ns - call.begun_ns) / 1e9:.3g} s"
            if self._stray and self._stray_ns >= call.begun_ns:
                text += f"; an unusable message came: {self._stray}"
            call.error = RequestTimeout(text)
            self._finish(call, now_ns)
        return late

    def forget(self, call: Call[Any]) -> None:
        """Give the call's place in the window back; its reply will be dropped."""
        self._inflight.pop(call.request_id, None)

    def close(self, now_ns: int) -> list[Call[Any]]:
        """Fail every call in flight with ClientClosed, and return them."""
        calls = list(self._inflight.values())
        for call in calls:
            call.error = ClientClosed("the client was closed while the request was in flight")
            self._finish(call, now_ns)
        return calls

    def _finish(self, call: Call[Any], now_ns: int) -> Call[Any]:
        call.finished_ns = now_ns
        del self._inflight[call.request_id]
        return call

    def _note(self, text: str, now_ns: int) -> None:
        self._stray, self._stray_ns = text, now_ns

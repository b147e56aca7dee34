"""A client's side of the protocol with no socket, clock or thread: it is given frames, events and the time."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from narsil_client.call import Call, ReplyT
from narsil_client.errors import (
    ClientClosed,
    HandshakeRefused,
    NarsilError,
    RequestTimeout,
    ServerLost,
    no_room,
    refused,
    unreachable,
)
from narsil_client.fleet import Fleet
from narsil_client.payloads import Payloads, Reply
from narsil_transport.messages import ControlRequest, InferRequest, RefusalReply, ScoresReply
from narsil_transport.status import Refusal, Status
from narsil_transport.wire import Frame, WireError, decode_reply, encode_request

# What a server says that takes no work at all; another may.
_ELSEWHERE = (Status.DRAINING, Status.UNAVAILABLE)


class Session:
    """At most `inflight_max` calls in flight, matched to replies by id, in any order, over the servers of `fleet`.

    A call is sent to one server; if that is lost before it answers, or takes no work, once to another. Every call ends
    exactly once, by a reply, an event or `expire`.
    A message that cannot be matched is dropped: a reply that came after its call expired, bytes that are no reply, a
    refusal of a message whose id the server could not read. The last of these, late replies apart, is named in the
    error of the calls that time out around it.
    """

    def __init__(self, endpoints: Sequence[str], inflight_max: int, shm_bytes: int = 0, *, keyed: bool = False) -> None:
        if inflight_max < 1:
            raise ValueError(f"want inflight_max of at least 1, got {inflight_max}")
        self.fleet = Fleet(endpoints, keyed=keyed)
        self.payloads = Payloads(endpoints, shm_bytes)
        # Calls that no server has, oldest first.
        self.waiting: deque[Call[Any]] = deque()
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
    ) -> Call[ReplyT]:
        """Number the request, ids increasing from 1, and return its call, which waits to be sent.

        `expects` is the class of its good reply. Raises ValueError if the window is full.
        """
        if self.full:
            raise ValueError(f"{self._inflight_max} calls are in flight already")
        request_id = request.request_id = self._last_id + 1
        # Where a server may read shared memory, the tensors wait to be copied there.
        later = request if self.payloads.used and isinstance(request, InferRequest) else None
        frames = encode_request(request) if later is None else ()
        rows, retry_by_ns = 0, expires_ns
        if isinstance(request, InferRequest):
            rows = request.rows
            if request.deadline_us is not None:
                retry_by_ns = min(now_ns + request.deadline_us * 1000, expires_ns)
        call = Call(request_id, expects, rows, frames, now_ns, expires_ns, retry_by_ns, request=later)
        self._last_id = request_id
        self._inflight[request_id] = call
        self.waiting.append(call)
        return call

    def outgoing(self, now_ns: int) -> Call[Any] | None:
        """The next call to send, to its `server`; None where no call waits for a server that has room."""
        for position, call in enumerate(self.waiting):
            if call.setback is not None and now_ns >= call.retry_by_ns:
                continue
            index = self.fleet.choose(counts=call.scores, avoid=call.avoid, now_ns=now_ns)
            if index >= 0:
                del self.waiting[position]
                call.server = index
                if call.scores:
                    self.fleet.servers[index].unanswered.add(call.request_id)
                return call
        return None

    def unsent(self, call: Call[Any]) -> None:
        """The socket had no room for this call: it waits on, and its server takes none until `writable`."""
        server = self.fleet.servers[call.server]
        server.answered(call.request_id)
        server.blocked = True
        call.recall()
        call.server = -1
        self.waiting.appendleft(call)

    def writable(self, index: int) -> None:
        """The socket of this server may have room again."""
        self.fleet.servers[index].blocked = False

    def receive(self, index: int, frames: Sequence[Frame], now_ns: int) -> Call[Any] | None:
        """The call that this message from that server finishes, or None: dropped, or the call will be sent elsewhere.

        Never raises on any bytes.
        """
        try:
            reply = decode_reply(frames)
        except WireError as error:
            self._note(str(error), now_ns)
            return None
        server = self.fleet.servers[index]
        server.answered(reply.request_id)
        if reply.window is not None:
            server.window = reply.window
        if self.payloads.receive(index, reply):
            return None
        call = self._inflight.get(reply.request_id)
        if call is None or call.server != index:
            if not reply.request_id and isinstance(reply, RefusalReply):
                self._note(reply.refusal.detail, now_ns)
            return None
        if call.doubt is not None and not _is_invalid(reply):
            # Nothing was wrong with the request: it was the segment.
            self.payloads.drop(call.doubt)
        if isinstance(reply, RefusalReply):
            return self._refuse(call, reply.refusal, now_ns)
        if type(reply) is not call.expects:
            self._note(f"a {type(reply).__name__} for a request that wants a {call.expects.__name__}", now_ns)
            return None
        if isinstance(reply, ScoresReply) and len(reply.scores) != call.rows:
            self._note(f"{len(reply.scores)} scores for {call.rows} rows", now_ns)
            return None
        call.reply = reply
        return self._finish(call, now_ns)

    def up(self, index: int) -> None:
        """There is a new connection to this server."""
        self.fleet.up(index)
        self.payloads.up(index)

    def down(self, index: int, now_ns: int) -> list[Call[Any]]:
        """The connection to this server ended, and what had arrived is read. The calls that end by that."""
        self.fleet.down(index, now_ns)
        self.payloads.down(index)
        endpoint = self.fleet.endpoints[index]
        ended: list[Call[Any]] = []
        for call in [call for call in self._inflight.values() if call.server == index]:
            if call.cancelled:
                ended.append(self._fail(call, _cancelled(), now_ns))
            elif call.setback is not None or now_ns >= call.retry_by_ns:
                ended.append(self._fail(call, _lost(endpoint), now_ns))
            else:
                self._again(call, _lost(endpoint), avoid=-1)
        return ended

    def hopeless(self, now_ns: int) -> list[Call[Any]]:
        """Fail the waiting calls that no server will take however long they wait, and return them."""
        fleet = self.fleet
        refusals = fleet.refusals
        ended: list[Call[Any]] = []
        for call in [*self.waiting]:
            setback = call.setback
            if refusals:
                ended.append(self._fail(call, setback or HandshakeRefused(refusals), now_ns))
            elif setback is not None:
                nowhere = call.avoid >= 0 and not fleet.connected(call.avoid)
                if nowhere or now_ns >= call.retry_by_ns:
                    ended.append(self._fail(call, setback, now_ns))
        return ended

    def expire(self, now_ns: int) -> list[Call[Any]]:
        """Fail the calls whose time is up, and return them."""
        late = [call for call in self._inflight.values() if call.expires_ns <= now_ns]
        for call in late:
            self._fail(call, self._overdue(call), now_ns)
        return late

    def cancel(self, call: Call[Any], now_ns: int) -> Call[Any] | None:
        """Nobody needs this call: it is not sent again. The call, if it ended by that, because no server has it."""
        call.cancelled = True
        return self._fail(call, _cancelled(), now_ns) if call.server < 0 and not call.done else None

    def forget(self, call: Call[Any], now_ns: int) -> None:
        """Give the call's place in the window back; its reply will be dropped."""
        if self._inflight.pop(call.request_id, None) is not None:
            self._leave(call, now_ns)
            call.settle()

    def close(self, now_ns: int) -> list[Call[Any]]:
        """Fail every call in flight with ClientClosed, and return them; every connection ends with this."""
        self.fleet.reset()
        self.payloads.close()
        error = "the client was closed while the request was in flight"
        return [self._fail(call, ClientClosed(error), now_ns) for call in [*self._inflight.values()]]

    def _refuse(self, call: Call[Any], refusal: Refusal, now_ns: int) -> Call[Any] | None:
        error = refused(refusal)
        retries = call.setback is None and not call.cancelled and now_ns < call.retry_by_ns
        if call.loan is not None and refusal.status is Status.INVALID and retries:
            call.doubt = call.loan.segment
            self._again(call, error, avoid=-1)
            return None
        if refusal.status in _ELSEWHERE:
            fleet, index = self.fleet, call.server
            fleet.shun(index, now_ns)
            if retries and fleet.connected(index):
                self._again(call, error, avoid=index)
                return None
        return self._fail(call, error, now_ns)

    def _again(self, call: Call[Any], setback: NarsilError, *, avoid: int) -> None:
        call.recall()
        call.setback, call.avoid, call.server = setback, avoid, -1
        self.waiting.append(call)

    def _overdue(self, call: Call[Any]) -> NarsilError:
        if call.server < 0:
            if call.setback is not None:
                return call.setback
            if self.fleet.connected():
                return no_room(self.inflight)
            refusals = self.fleet.last_refusals
            return HandshakeRefused(refusals) if refusals else unreachable(self.fleet.hitches)
        text = f"no answer in {(call.expires_ns - call.begun_ns) / 1e9:.3g} s"
        if self._stray and self._stray_ns >= call.begun_ns:
            text += f"; an unusable message came: {self._stray}"
        return RequestTimeout(text)

    def _fail(self, call: Call[Any], error: NarsilError, now_ns: int) -> Call[Any]:
        call.error = error
        self._leave(call, now_ns)
        return self._finish(call, now_ns)

    def _leave(self, call: Call[Any], now_ns: int) -> None:
        if call.server < 0:
            self.waiting.remove(call)
        else:
            self.fleet.servers[call.server].abandon(call.request_id, now_ns)

    def _finish(self, call: Call[Any], now_ns: int) -> Call[Any]:
        call.finished_ns = now_ns
        # Its result may be kept for long, and need not keep the request.
        call.frames, call.request = (), None
        call.settle()
        self._inflight.pop(call.request_id, None)
        return call

    def _note(self, text: str, now_ns: int) -> None:
        self._stray, self._stray_ns = text, now_ns


def _is_invalid(reply: Reply) -> bool:
    return isinstance(reply, RefusalReply) and reply.refusal.status is Status.INVALID


def _lost(endpoint: str) -> ServerLost:
    return ServerLost(f"the connection to {endpoint} ended before it answered, and no other server did in its place")


def _cancelled() -> NarsilError:
    return refused(Refusal(Status.CANCELLED, "cancelled before any server answered"))

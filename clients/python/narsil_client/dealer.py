"""The DEALER socket of both clients: the only module here that knows ZeroMQ."""

from collections.abc import Iterable, Sequence

import zmq

from narsil_client.errors import ServerUnreachable

# Plain integers: arithmetic on zmq's enum flags costs more than a send.
_MORE, _NOBLOCK = int(zmq.SNDMORE), int(zmq.DONTWAIT)
READABLE, WRITABLE = int(zmq.POLLIN), int(zmq.POLLOUT)
# One more than any reply has, so that the decoder can tell a message with too many.
_FRAMES_MAX = 3
# A host that vanished without closing its connection leaves the round robin within twice this.
_HEARTBEAT_MS = 2000


class Dealer:
    """A connected DEALER: whole messages out without blocking, whole messages in. Not thread-safe."""

    def __init__(self, socket: zmq.SyncSocket, own_context: zmq.SyncContext | None, *, servers_max: int) -> None:
        self._socket = socket
        self._servers_max = servers_max
        self._own_context = own_context
        # Bound once: looking them up is a measurable part of sending three small frames.
        self._send = socket.send
        self._recv = socket.recv
        self._get = socket.getsockopt
        self._timeout_ms = -1

    @property
    def fd(self) -> int:
        """Becomes readable when `events` may have changed. Edge-triggered, so look at `events` after every call too."""
        return self._socket.fileno()

    def events(self) -> int:
        """READABLE where `receive` has a message, WRITABLE where `send` has room, or both, or 0."""
        events = self._get(zmq.EVENTS)
        assert isinstance(events, int)
        return events

    def send(self, frames: Sequence[bytes]) -> bool:
        """Queue a message of at least one frame. False where no connected server has room for it."""
        last = len(frames) - 1
        try:
            self._send(frames[0], _NOBLOCK | _MORE if last else _NOBLOCK)
        except zmq.Again:
            return False
        # With the first frame accepted, libzmq takes the rest or drops the message whole: these cannot block.
        for frame in frames[1:last]:
            self._send(frame, _MORE)
        if last:
            self._send(frames[last])
        return True

    def send_to_all(self, messages: Iterable[bytes]) -> None:
        """Queue each of these messages, one frame long, for every connected server. What finds no room is dropped."""
        for message in messages:
            # libzmq gives each server its turn, so in as many sends as there are servers each has had one.
            for _ in range(self._servers_max):
                self.send([message])

    def receive(self, timeout_ms: int) -> list[bytes] | None:
        """The frames of the next message, at most three, or None if none comes in `timeout_ms`."""
        if timeout_ms != self._timeout_ms:
            self._socket.rcvtimeo = self._timeout_ms = timeout_ms
        try:
            # A Frame knows whether more follow; asking the socket after a plain recv costs half as much again.
            frame = self._recv(0, False)
        except zmq.Again:
            return None
        # bytes, not views: libzmq's own memory is unaligned, and a view would pin a whole receive buffer.
        frames = [frame.bytes]
        while frame.more:
            frame = self._recv(0, False)
            if len(frames) < _FRAMES_MAX:
                frames.append(frame.bytes)
        return frames

    def wait_writable(self, timeout_ms: int) -> None:
        """Wait until `send` may succeed, at most `timeout_ms`."""
        self._socket.poll(timeout_ms, zmq.POLLOUT)

    def close(self) -> None:
        """Drop what is queued and disconnect."""
        self._socket.close()
        if self._own_context is not None:
            self._own_context.term()


def connect(endpoints: Sequence[str], *, inflight_max: int, context: zmq.SyncContext | None) -> Dealer:
    """A DEALER connected to every endpoint, in a context of its own if none is given; the servers need not exist yet.

    Raises ServerUnreachable where an endpoint is malformed, ValueError where there is none.
    """
    if not endpoints:
        raise ValueError("want at least one endpoint")
    own_context = None
    if context is None:
        context = own_context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    # Only to servers that are there: otherwise every other request would wait for a dead one.
    socket.immediate = 1
    # Twice the window, because libzmq learns what a pipe's reader has taken in steps of half the mark.
    socket.sndhwm = socket.rcvhwm = 2 * inflight_max
    socket.heartbeat_ivl = _HEARTBEAT_MS
    dealer = Dealer(socket, own_context, servers_max=len(endpoints))
    for endpoint in endpoints:
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            dealer.close()
            raise ServerUnreachable(f"cannot connect to {endpoint!r}: {zmq.strerror(error.errno or 0)}") from None
    return dealer

"""A DEALER socket: whole messages in and out, without blocking."""

from collections.abc import Sequence

import zmq

from narsil_client.curve import CurveKeys
from narsil_client.errors import ServerUnreachable

# Plain integers: arithmetic on zmq's enum flags costs more than a send.
_MORE, _NOBLOCK = int(zmq.SNDMORE), int(zmq.DONTWAIT)
_READABLE, _WRITABLE, _EVENTS = int(zmq.POLLIN), int(zmq.POLLOUT), int(zmq.EVENTS)
# One more than any reply has, so that the decoder can tell a message with too many.
_FRAMES_MAX = 3
# A server that answers neither data nor heartbeats for this long is gone, and so is one that accepts and says nothing.
_SILENCE_MS = 3000
HEARTBEAT_MS = 1000


class Dealer:
    """Whole messages out without blocking, whole messages in. Not thread-safe."""

    def __init__(self, socket: zmq.SyncSocket, own_context: zmq.SyncContext | None = None) -> None:
        self._socket = socket
        self._own_context = own_context
        # Bound once: looking them up is a measurable part of sending three small frames.
        self._send = socket.send
        self._recv = socket.recv
        self._get = socket.getsockopt
        self._timeout_ms = -1

    @property
    def fd(self) -> int:
        """Becomes readable when there may be something to `take` or room again. Edge-triggered: see `take`."""
        return self._socket.fileno()

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

    def writable(self) -> bool:
        """Whether `send` would succeed; it looks at the connection anew, which a `send` need not do."""
        events = self._get(_EVENTS)
        assert isinstance(events, int)
        return bool(events & _WRITABLE)

    def take(self) -> list[bytes] | None:
        """The frames of a message that has come, at most three. None where there is none: only then wait for `fd`.

        So too after each `send`: like `take`, it may swallow the edge.
        """
        events = self._get(_EVENTS)
        assert isinstance(events, int)
        return self._read() if events & _READABLE else None

    def receive(self, timeout_ms: int) -> list[bytes] | None:
        """The frames of the next message, at most three, or None if none comes in `timeout_ms`."""
        if timeout_ms != self._timeout_ms:
            self._socket.rcvtimeo = self._timeout_ms = timeout_ms
        try:
            return self._read()
        except zmq.Again:
            return None

    def _read(self) -> list[bytes]:
        # A Frame knows whether more follow; asking the socket after a plain recv costs half as much again.
        frame = self._recv(0, False)
        # bytes, not views: libzmq's own memory is unaligned, and a view would pin a whole receive buffer.
        frames = [frame.bytes]
        while frame.more:
            frame = self._recv(0, False)
            if len(frames) < _FRAMES_MAX:
                frames.append(frame.bytes)
        return frames

    def wait_writable(self, timeout_ms: int) -> bool:
        """Wait until `send` may succeed, at most `timeout_ms`; whether it may."""
        return bool(self._socket.poll(timeout_ms, zmq.POLLOUT))

    def close(self) -> None:
        """Drop what is queued and disconnect."""
        self._socket.close()
        if self._own_context is not None:
            self._own_context.term()


def dealer_socket(
    context: zmq.SyncContext, *, queue_max: int, heartbeat_ms: int = HEARTBEAT_MS, keys: CurveKeys | None = None
) -> zmq.SyncSocket:
    """A DEALER, not connected yet, that queues at most `queue_max` messages each way."""
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    # Only to a server that is there: otherwise requests would wait for one that may never come.
    socket.immediate = 1
    socket.sndhwm = socket.rcvhwm = queue_max
    socket.heartbeat_ivl = heartbeat_ms
    socket.heartbeat_timeout = socket.handshake_ivl = socket.connect_timeout = _SILENCE_MS
    if keys is not None:
        keys.apply(socket)
    return socket


def connect_socket(socket: zmq.SyncSocket, endpoint: str) -> None:
    """Start to connect; the server need not exist yet. Raises ServerUnreachable where the endpoint is malformed."""
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise ServerUnreachable(f"cannot connect to {endpoint!r}: {zmq.strerror(error.errno or 0)}") from None


def connect(
    endpoints: Sequence[str], *, inflight_max: int, context: zmq.SyncContext | None, keys: CurveKeys | None = None
) -> Dealer:
    """A bare DEALER, in a context of its own if none is given, that gives each of these servers its turn.

    For tools that count and time messages themselves: nothing is known of connections. Raises ServerUnreachable where
    an endpoint is malformed.
    """
    own_context = None
    if context is None:
        context = own_context = zmq.Context()
    # Twice the window, because libzmq learns what a pipe's reader has taken in steps of half the mark.
    socket = dealer_socket(context, queue_max=2 * inflight_max, keys=keys)
    dealer = Dealer(socket, own_context)
    try:
        for endpoint in endpoints:
            connect_socket(socket, endpoint)
    except BaseException:
        dealer.close()
        raise
    return dealer

"""The server's socket: multipart messages in, replies out, never blocked by a peer. The only holder of a socket."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket
from types import TracebackType
from typing import Self

import zmq

from narsil_transport.wire import TENSORS_MAX, Frame

# A peer that stays silent in the handshake is dropped after this, so it cannot hold a descriptor for ever.
HANDSHAKE_MS = 5000
# Messages queued per peer and direction; each is bounded by the frame limit.
QUEUE_MESSAGES_MAX = 10_000
# What close() waits for the last replies to leave.
LINGER_MS = 1000

# Plain integers: pyzmq's flags are enums, whose "|" costs a third of a send.
_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)


class BindError(OSError):
    """The endpoint cannot be bound. The text is one sentence."""


@dataclass(slots=True)
class Route:
    """The way back to a peer; `delimiter` says it is a REQ, which wants an empty frame first."""

    identity: bytes
    delimiter: bool


@dataclass(slots=True)
class Message:
    """One multipart message. No header is b"", and no more than one tensor beyond the legal count is kept.

    Too few or too many frames are therefore refused by the decoder, like any other malformed request.
    """

    route: Route
    header: bytes
    tensors: list[bytes]


class Router:
    """A ROUTER socket from `open` to `close`, or for a `with` block. Not thread-safe.

    `bind` is a ZeroMQ endpoint (tcp://127.0.0.1:* picks a port). A peer that sends a frame of more than
    `frames_bytes_max` bytes is disconnected. One `receive` gives at most `receive_max` messages.
    """

    def __init__(
        self, *, bind: str, frames_bytes_max: int, receive_max: int, context: zmq.SyncContext | None = None
    ) -> None:
        if frames_bytes_max < 1 or receive_max < 1:
            raise ValueError(f"want positive limits, got {frames_bytes_max} bytes and {receive_max} messages")
        self._bind = bind
        self._frames_bytes_max = frames_bytes_max
        self._receive_max = receive_max
        self._shared_context = context
        self._own_context: zmq.SyncContext | None = None
        self._socket: zmq.SyncSocket | None = None
        self._path: Path | None = None
        self._poller = zmq.Poller()
        self._dropped_replies = 0

    @property
    def dropped_replies(self) -> int:
        """Replies that were not sent, because the peer had gone or its queue was full."""
        return self._dropped_replies

    @property
    def endpoint(self) -> str:
        """The endpoint as bound: with tcp://127.0.0.1:*, the one with the real port."""
        return self._opened().get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def open(self) -> None:
        """Bind. Raises BindError where the endpoint is malformed or in use."""
        path = _socket_path(self._bind)
        if path is not None and _listens(path):
            raise BindError(f"cannot bind {self._bind}: another server listens there")
        context = self._shared_context
        if context is None:
            context = self._own_context = zmq.Context()
        self._socket = router = context.socket(zmq.ROUTER)
        router.linger = LINGER_MS
        router.maxmsgsize = self._frames_bytes_max
        router.handshake_ivl = HANDSHAKE_MS
        router.rcvhwm = router.sndhwm = QUEUE_MESSAGES_MAX
        router.router_mandatory = 1
        try:
            router.bind(self._bind)
        except zmq.ZMQError as error:
            self.close()
            raise BindError(f"cannot bind {self._bind}: {zmq.strerror(error.errno or 0)}") from None
        self._path = path
        self._poller.register(router, zmq.POLLIN)

    def close(self) -> None:
        """Unbind, and wait up to LINGER_MS for the replies still in the queue. A second close does nothing."""
        if self._path is not None:
            # libzmq leaves the file. While this socket still listens, no other server has taken the path.
            self._path.unlink(missing_ok=True)
            self._path = None
        if self._socket is not None:
            if self._socket in self._poller:
                self._poller.unregister(self._socket)
            self._socket.close()
            self._socket = None
        if self._own_context is not None:
            self._own_context.term()
            self._own_context = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait(self, timeout_ms: int) -> bool:
        """Whether a message has come, within `timeout_ms`."""
        return bool(self._poller.poll(timeout_ms))

    def receive(self) -> list[Message]:
        """Take what is there without waiting."""
        messages: list[Message] = []
        receive = self._opened().recv
        try:
            while len(messages) < self._receive_max:
                identity = receive(_NOBLOCK)
                # A Frame knows whether more follow; asking the socket after a plain recv costs twice as much.
                frame = receive(_NOBLOCK, False)
                delimiter = not len(frame)
                if delimiter and frame.more:
                    frame = receive(_NOBLOCK, False)
                # bytes, not views: libzmq's own memory is unaligned, and a view would pin a whole receive buffer.
                header = frame.bytes
                tensors: list[bytes] = []
                while frame.more:
                    frame = receive(_NOBLOCK, False)
                    if len(tensors) <= TENSORS_MAX:
                        tensors.append(frame.bytes)
                messages.append(Message(Route(identity, delimiter), header, tensors))
        except zmq.Again:
            pass
        return messages

    def send(self, route: Route, frames: Sequence[Frame]) -> bool:
        """Queue a reply of at least one frame. False, and counted, where the peer has gone or does not read."""
        send = self._opened().send
        *first, last = frames
        try:
            send(route.identity, _MORE)
            if route.delimiter:
                send(b"", _MORE)
            for frame in first:
                send(frame, _MORE)
            send(last, _NOBLOCK)
        except zmq.ZMQError as error:
            # Only the identity can fail so: once it is accepted, libzmq takes or drops the rest of the message whole.
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            self._dropped_replies += 1
            return False
        return True

    def _opened(self) -> zmq.SyncSocket:
        assert self._socket is not None, "the router is not open"
        return self._socket


def _socket_path(endpoint: str) -> Path | None:
    """The file that an ipc endpoint names; abstract names and libzmq's own choice ("*") have none of ours."""
    path = endpoint.removeprefix("ipc://")
    return None if path == endpoint or path.startswith(("@", "*")) else Path(path)


def _listens(path: Path) -> bool:
    """Whether a server lives there: libzmq would take the path over, and that server would hear nothing more."""
    with socket(AF_UNIX, SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True

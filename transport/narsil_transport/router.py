"""The server's socket: multipart messages in, replies out, never blocked by a peer."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq

from narsil_transport.connections import Connections
from narsil_transport.ipc_file import ipc_file, listens
from narsil_transport.peers import RETRY_NS, WINDOW, Peers
from narsil_transport.security import Security
from narsil_transport.wire import TENSORS_MAX, WINDOW_START, Frame

# A peer that stays silent in the handshake is dropped after this, so it cannot hold a descriptor for ever.
HANDSHAKE_MS = 5000
# A peer that is not heard of for the timeout is gone. The TTL asks the same of a peer that sends no heartbeats itself.
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS, HEARTBEAT_TTL_MS = 2000, 6000, 10_000
# Connections that may wait to be accepted: a fleet that reconnects at once. libzmq's own is 100.
BACKLOG = 1024
CONNECTIONS_MAX = 1000
# What close() waits for the last replies to leave.
LINGER_MS = 1000

# Plain integers: pyzmq's flags are enums, whose "|" costs a third of a send.
_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_RETRY_MS = RETRY_NS // 1_000_000


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

    Too few or too many frames are therefore refused by the decoder, like any other malformed request. `user` is the
    peer's public key, or "" where there is no security.
    """

    route: Route
    header: bytes
    tensors: list[bytes]
    user: str = ""


class Router:
    """A ROUTER socket from `open` to `close`, or for a `with` block. Not thread-safe.

    `bind` is a ZeroMQ endpoint (tcp://127.0.0.1:* picks a port). A peer that sends a frame of more than
    `frames_bytes_max` bytes is disconnected, and a connection beyond `connections_max` at once. One `receive` gives at
    most `receive_max` messages. `peers` counts each peer's unanswered requests against `window`, for whoever answers
    them, and keeps the replies that a full pipe does not take. With `security` only those it lets in are heard; it is
    closed with the router.
    """

    def __init__(
        self,
        *,
        bind: str,
        frames_bytes_max: int,
        receive_max: int,
        window: int = WINDOW,
        connections_max: int = CONNECTIONS_MAX,
        io_threads: int = 1,
        security: Security | None = None,
        context: zmq.SyncContext | None = None,
    ) -> None:
        if frames_bytes_max < 1 or receive_max < 1:
            raise ValueError(f"want positive limits, got {frames_bytes_max} bytes and {receive_max} messages")
        self.frames_bytes_max = frames_bytes_max
        self.security = security
        self.peers = Peers(window=window)
        self.connections = Connections(connections_max)
        self._bind = bind
        self._receive_max = receive_max
        self._io_threads = io_threads
        self._shared_context = context
        self._own_context: zmq.SyncContext | None = None
        self._socket: zmq.SyncSocket | None = None
        self._path: Path | None = None
        self._poller = zmq.Poller()
        self._connections_fd = -1

    @property
    def dropped_replies(self) -> int:
        """Replies that were not sent, because the peer had gone or its outbox was full."""
        return self.peers.dropped_replies

    @property
    def endpoint(self) -> str:
        """The endpoint as bound: with tcp://127.0.0.1:*, the one with the real port."""
        return self._opened().get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def open(self) -> None:
        """Bind. Raises BindError where the endpoint is malformed or in use."""
        path = ipc_file(self._bind)
        if path is not None and listens(path):
            raise BindError(f"cannot bind {self._bind}: another server listens there")
        context = self._shared_context
        if context is None:
            context = self._own_context = zmq.Context(self._io_threads)
        self._socket = router = context.socket(zmq.ROUTER)
        self._configure(router)
        self._connections_fd = self.connections.watch(router, context)
        if self.security is not None:
            self.security.apply(router, context)
        # An ipc socket is its owner's alone from its first moment: who may write to it may connect.
        umask = os.umask(0o077)
        try:
            router.bind(self._bind)
        except zmq.ZMQError as error:
            self.close()
            raise BindError(f"cannot bind {self._bind}: {zmq.strerror(error.errno or 0)}") from None
        finally:
            os.umask(umask)
        if path is not None:
            path.chmod(0o600)
        self._path = path
        self._poller.register(router, zmq.POLLIN)
        self._poller.register(self._connections_fd, zmq.POLLIN)
        if self.security is not None:
            self._poller.register(self.security.zap_socket, zmq.POLLIN)

    def _configure(self, router: zmq.SyncSocket) -> None:
        router.linger = LINGER_MS
        router.maxmsgsize = self.frames_bytes_max
        router.handshake_ivl = HANDSHAKE_MS
        router.heartbeat_ivl = HEARTBEAT_MS
        router.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
        router.heartbeat_ttl = HEARTBEAT_TTL_MS
        router.backlog = BACKLOG
        # Twice a window, for libzmq hears of what a pipe's reader took only half a pipe at a time: the replies of a
        # peer that keeps its window always find room.
        router.rcvhwm = router.sndhwm = 2 * max(self.peers.window, WINDOW_START)
        # Or libzmq would drop what does not fit, and say nothing.
        router.router_mandatory = 1

    def close(self) -> None:
        """Unbind, and wait up to LINGER_MS for the outboxes, then for libzmq's queues. A second close does nothing."""
        if self._path is not None:
            # libzmq leaves the file. While this socket still listens, no other server has taken the path.
            self._path.unlink(missing_ok=True)
            self._path = None
        if self._socket is not None:
            end_ns = time.monotonic_ns() + LINGER_MS * 1_000_000
            while self.peers.waiting and time.monotonic_ns() < end_ns:
                self._retry(time.monotonic_ns())
                # Not only a pause: it is when libzmq hears what the peers have read.
                self._socket.poll(_RETRY_MS, zmq.POLLERR)
            self._poller = zmq.Poller()
            self.connections.close()
            self._socket.close()
            self._socket = None
        if self.security is not None:
            self.security.close()
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
        """Whether a message has come, within `timeout_ms`; meanwhile connections and outboxes are seen to."""
        begin_ns = time.monotonic_ns()
        left_ms, peers = timeout_ms, self.peers
        while True:
            if peers.waiting:
                self._retry(time.monotonic_ns())
            ready = self._poller.poll(min(left_ms, _RETRY_MS) if peers.waiting else left_ms)
            arrived = False
            for found, _ in ready:
                if found is self._socket:
                    arrived = True
                elif found == self._connections_fd:
                    self.connections.handle()
                elif self.security is not None:
                    self.security.handle()
            if arrived:
                return True
            left_ms = timeout_ms - (time.monotonic_ns() - begin_ns) // 1_000_000
            if left_ms <= 0:
                return False

    def receive(self) -> Iterator[Message]:
        """What is there, one by one, each taken when asked for, without waiting; ZeroMQ gives every peer its turn.

        The messages of slow peers are dropped, and counted.
        """
        receive, slow, secured = self._opened().recv, self.peers.slow, self.security is not None
        user, taken = "", 0
        try:
            while taken < self._receive_max:
                identity = receive(_NOBLOCK)
                taken += 1
                # A Frame knows whether more follow; asking the socket after a plain recv costs twice as much.
                frame = receive(_NOBLOCK, False)
                delimiter = not len(frame)
                if delimiter and frame.more:
                    frame = receive(_NOBLOCK, False)
                if secured:
                    user = _user_id(frame)
                # bytes, not views: libzmq's own memory is unaligned, and a view would pin a whole receive buffer.
                header = frame.bytes
                tensors: list[bytes] = []
                while frame.more:
                    frame = receive(_NOBLOCK, False)
                    if len(tensors) <= TENSORS_MAX:
                        tensors.append(frame.bytes)
                if slow and identity in slow:
                    self.peers.unserved += 1
                    continue
                yield Message(Route(identity, delimiter), header, tensors, user)
        except zmq.Again:
            pass

    def send(self, route: Route, frames: Sequence[Frame]) -> bool:
        """Send a reply of at least one frame, or keep it until the peer reads.

        False, and counted, where the peer has gone or leaves too much unread.
        """
        if route.delimiter:
            frames = (b"", *frames)
        identity, peers = route.identity, self.peers
        if not peers.waits(identity):
            try:
                self._send(identity, frames)
                return True
            except zmq.Again:
                pass
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                peers.forget(identity)
                peers.dropped_replies += 1
                return False
        return peers.keep(identity, frames)

    def cut(self) -> None:
        """End every connection, which frees every half-received message. ZeroMQ peers come back by themselves."""
        self.connections.cut_all()

    def _retry(self, now_ns: int) -> None:
        """Send what some of the outboxes hold, as far as their peers have room again."""
        peers = self.peers
        for identity in peers.due(now_ns):
            try:
                while (frames := peers.oldest(identity)) is not None:
                    self._send(identity, frames)
                    peers.sent(identity)
            except zmq.Again:
                pass
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                peers.forget(identity)

    def _send(self, identity: bytes, frames: Sequence[Frame]) -> None:
        # Only the identity can fail, with EAGAIN where the pipe is full (measured) or EHOSTUNREACH: once it is taken,
        # libzmq takes or drops the rest of the message whole.
        send = self._opened().send
        *first, last = frames
        send(identity, _MORE)
        for frame in first:
            send(frame, _MORE)
        send(last, _NOBLOCK)

    def _opened(self) -> zmq.SyncSocket:
        assert self._socket is not None, "the router is not open"
        return self._socket


def _user_id(frame: zmq.Frame) -> str:
    """Whose frame it is by the handshake; nobody's ("") where there was none, as on inproc."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""

"""The accepted connections, counted by libzmq's own events; those beyond a limit, or all of them, are cut."""

import struct
from contextlib import suppress
from socket import SHUT_RDWR, socket

import zmq

_EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_ACCEPTED, _DISCONNECTED = int(zmq.EVENT_ACCEPTED), int(zmq.EVENT_DISCONNECTED)
_NOBLOCK = int(zmq.NOBLOCK)
# A monitor message's first frame: the event, and of these events a descriptor (or an error).
_EVENT = struct.Struct("=HI")


class Connections:
    """Those of one listening socket, from `watch` to `close`; of inproc there are none. Not thread-safe.

    libzmq offers nothing to end a connection, and its unbind ends them all (measured, tcp and ipc). But its events name
    the descriptor, and a shutdown of that is to libzmq what a peer's leaving is: the connection's half-received message
    is freed, and the peer, if it is a ZeroMQ socket, comes back by itself.
    """

    def __init__(self, connections_max: int) -> None:
        if connections_max < 1:
            raise ValueError(f"want at least 1 connection, got {connections_max}")
        self.maximum = connections_max
        self.refused = 0
        self.handshakes_failed = 0
        # In the order in which they came, which a dict keeps.
        self._open: dict[int, None] = {}
        self._monitored: zmq.SyncSocket | None = None
        self._events: zmq.SyncSocket | None = None

    @property
    def count(self) -> int:
        return len(self._open)

    def watch(self, listening: zmq.SyncSocket, context: zmq.SyncContext) -> int:
        """Count the connections of this socket, which is not yet bound.

        Gives the descriptor that is readable when there is something to `handle`. To poll the events' socket itself
        would cost each turn of a loop another microsecond.
        """
        endpoint = f"inproc://narsil-connections-{id(self)}"
        self._monitored, self._events = listening, context.socket(zmq.PAIR)
        self._events.linger = 0
        # Unbounded, for libzmq's thread waits where its events find no room, and all connections with it.
        self._events.rcvhwm = 0
        listening.monitor(endpoint, _EVENTS)
        self._events.connect(endpoint)
        # libzmq signals only a reader that has found nothing.
        self.handle()
        return int(self._events.get(zmq.FD))

    def handle(self) -> None:
        """Count what has happened, and cut what is beyond the maximum."""
        events = self._events
        assert events is not None, "watch() makes the events' socket"
        try:
            # To the last one, or the descriptor would not be readable for those left.
            while True:
                event, value = _EVENT.unpack(events.recv_multipart(_NOBLOCK)[0])
                self.note(event, value)
        except zmq.Again:
            pass
        for descriptor in list(self._open)[self.maximum :]:
            self.refused += 1
            del self._open[descriptor]
            _cut(descriptor)

    def note(self, event: int, descriptor: int) -> None:
        """One event."""
        if event == _ACCEPTED:
            self._open[descriptor] = None
        elif event == _DISCONNECTED:
            self._open.pop(descriptor, None)
        else:
            self.handshakes_failed += 1

    def cut_all(self) -> None:
        """End every connection."""
        self.handle()
        for descriptor in self._open:
            _cut(descriptor)

    def close(self) -> None:
        """Stop counting. A second close does nothing."""
        if self._monitored is not None:
            self._monitored.disable_monitor()
            self._monitored = None
        if self._events is not None:
            self._events.close()
            self._events = None
        self._open.clear()


def _cut(descriptor: int) -> None:
    # libzmq may have closed it since: then it is no socket, or that of a newer connection, whose peer reconnects.
    with suppress(OSError):
        connection = socket(fileno=descriptor)
        try:
            connection.shutdown(SHUT_RDWR)
        finally:
            # It is libzmq's to close.
            connection.detach()

"""What becomes of a socket's connection, as libzmq tells it."""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

import zmq

# libzmq's event: its number, then a value, each in the machine's own order.
_EVENT = Struct("=Hi")
_NOBLOCK = int(zmq.DONTWAIT)
_UP, _DOWN = int(zmq.EVENT_HANDSHAKE_SUCCEEDED), int(zmq.EVENT_DISCONNECTED)
_AUTH = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_PROTOCOL, _NO_DETAIL = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL), int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
# ZAP: 300 and 500 are the server's own trouble, which may pass.
_ZAP_REFUSED = 400


@dataclass(frozen=True, slots=True)
class Up:
    """The handshake succeeded."""


@dataclass(frozen=True, slots=True)
class Down:
    """The connection ended."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The handshake failed; `final` where that was the server's answer."""

    reason: str
    final: bool


Event = Up | Down | Failed


class Monitor:
    """The events of one socket, from before it connects. libzmq keeps them until they are read."""

    def __init__(self, socket: zmq.SyncSocket) -> None:
        self._watched = socket
        self._pair = socket.get_monitor_socket(_UP | _DOWN | _AUTH | _PROTOCOL | _NO_DETAIL)
        self._pair.linger = 0

    @property
    def fd(self) -> int:
        """Becomes readable when `read` may have something. Edge-triggered, so read all there is."""
        return self._pair.fileno()

    def read(self) -> Iterator[Event]:
        """What has happened since, in order."""
        while True:
            try:
                frames = self._pair.recv_multipart(_NOBLOCK)
            except zmq.Again:
                return
            yield _event(*_EVENT.unpack(frames[0]))

    def close(self) -> None:
        """Before the watched socket's own."""
        self._watched.disable_monitor()
        self._pair.close()


def _event(number: int, value: int) -> Event:
    if number == _UP:
        return Up()
    if number == _DOWN:
        return Down()
    if number == _AUTH:
        return Failed(f"it does not take this client's key ({value})", value == _ZAP_REFUSED)
    if number == _PROTOCOL:
        return Failed("it does not agree on the security of the connection", True)
    return Failed("it hung up in the handshake, as with a wrong server key or no room for more", False)

"""A peer of a plain socket that speaks just enough ZMTP 3.0 to be taken for a DEALER, and then does as it likes."""

import socket
import struct

# Signature, version 3.0, mechanism NULL, no server, filler.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4
PATIENCE_S = 10.0


def ready(kind: bytes = b"DEALER") -> bytes:
    """The READY command."""
    properties = b"".join(
        bytes((len(name),)) + name + struct.pack(">I", len(value)) + value
        for name, value in ((b"Socket-Type", kind), (b"Identity", b""))
    )
    return frame(b"\x05READY" + properties, flags=COMMAND)


def frame(body: bytes, *, flags: int = 0) -> bytes:
    """A frame of this body as it goes over the wire."""
    if len(body) > 255:
        return struct.pack(">BQ", flags | LONG, len(body)) + body
    return struct.pack(">BB", flags, len(body)) + body


def connection(endpoint: str) -> socket.socket:
    """A socket connected to a ZeroMQ endpoint, tcp or ipc, that has said nothing yet."""
    transport, _, address = endpoint.partition("://")
    if transport == "ipc":
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(PATIENCE_S)
        connected.connect(address)
        return connected
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE_S)


class RawPeer:
    """Past the handshake when it is made. It answers no heartbeat."""

    def __init__(self, endpoint: str) -> None:
        self.socket = connection(endpoint)
        self.socket.sendall(GREETING + ready())
        self._read(len(GREETING))
        flags, size = self._read(2)
        assert flags == COMMAND
        assert self._read(size).startswith(b"\x05READY")

    def __enter__(self) -> "RawPeer":
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, body: bytes, *, more: bool) -> None:
        """One frame. Raises OSError where the server has closed the connection or reads no more for PATIENCE_S."""
        self.socket.sendall(frame(body, flags=MORE if more else 0))

    def hears_its_end(self) -> bool:
        """Whether the server closes the connection within PATIENCE_S, whatever it says before."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def _read(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            more = self.socket.recv(size - len(found))
            assert more, "the server hung up in the handshake"
            found += more
        return found

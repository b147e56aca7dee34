"""A peer that speaks ZMTP 3.0 by hand, and so may do what libzmq never does."""

import socket
import struct

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def _command(name: bytes, body: bytes) -> bytes:
    content = bytes((len(name),)) + name + body
    return b"\x04" + bytes((len(content),)) + content


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + struct.pack(">I", len(value)) + value


READY = _command(b"READY", _property(b"Socket-Type", b"DEALER") + _property(b"Identity", b""))


def part(body: bytes) -> bytes:
    """A frame that more will follow."""
    return b"\x03" + struct.pack(">Q", len(body)) + body


def connected(endpoint: str) -> socket.socket:
    """A connection to ``endpoint`` (tcp or ipc) that has shaken hands."""
    transport, _, address = endpoint.partition("://")
    if transport == "ipc":
        raw = socket.socket(socket.AF_UNIX)
        raw.connect(address)
    else:
        host, _, port = address.rpartition(":")
        raw = socket.create_connection((host, int(port)))
    raw.settimeout(5)
    raw.sendall(GREETING + READY)
    return raw

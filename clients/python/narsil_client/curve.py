"""CURVE for a client: its own key, and the one server key that it trusts."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from struct import error as StructError

import zmq
from zmq.utils import z85

from narsil_transport.keys import KEY_CHARACTERS, read_secret_key


@dataclass(frozen=True, slots=True)
class Curve:
    """`server_key` is the servers' public key, 40 Z85 characters; `secret_key_file` this client's NAME.key_secret.

    Raises ValueError where the key is none. The file is read when the client opens.
    """

    server_key: str
    secret_key_file: str | PathLike[str]

    def __post_init__(self) -> None:
        try:
            good = len(self.server_key) == KEY_CHARACTERS and len(z85.decode(self.server_key)) > 0
        except (ValueError, KeyError, StructError):
            good = False
        if not good:
            raise ValueError(f"want a server_key of {KEY_CHARACTERS} Z85 characters, got {self.server_key!r}")

    def read(self) -> "CurveKeys":
        """Read the file. Raises ValueError, also where others than its owner have any access to it."""
        public, secret = read_secret_key(Path(self.secret_key_file))
        return CurveKeys(self.server_key.encode(), public, secret)


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """What a socket needs, each 40 Z85 characters."""

    server: bytes
    public: bytes
    secret: bytes

    def apply(self, socket: zmq.SyncSocket) -> None:
        """Before it connects: let `socket` talk to none but that server."""
        socket.curve_serverkey = self.server
        socket.curve_publickey = self.public
        socket.curve_secretkey = self.secret

    def __repr__(self) -> str:
        return f"CurveKeys({self.public!r})"

"""Who may connect: CURVE on the server's socket, and the answers to libzmq's question (ZAP, RFC 27) for each client."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import zmq
from zmq.utils import z85

from narsil_transport.keys import KeyFileError, read_public_key, read_secret_key

# The one name of the domain: where the option and the handler differ, every client hangs.
ZAP_DOMAIN = b"narsil"
ZAP_ENDPOINT = "inproc://zeromq.zap.01"
# Answered in one `handle`; a crowd at the door must not keep the served waiting.
HANDSHAKES_MAX = 64

_ZAP_VERSION = b"1.0"
_KEY_BYTES = 32
_NOBLOCK = int(zmq.NOBLOCK)


class CurveServer:
    """The server's secret key and the clients it lets in, from `read` to `close`. Not thread-safe.

    The allowed clients are the keys in the files *.key of a folder; a key is named by its 40 Z85 characters, which is
    also the `User-Id` of every frame that its owner sends. One context has room for one CurveServer.
    """

    def __init__(self, *, secret_key: bytes, folder: Path, allowed: frozenset[str]) -> None:
        self._secret_key = secret_key
        self._folder = folder
        self._allowed = allowed
        self._zap: zmq.SyncSocket | None = None

    @classmethod
    def read(cls, *, secret_key_file: Path, authorized_clients: Path) -> Self:
        """Raises KeyFileError where the secret key, the folder or any key in it cannot be read."""
        _, secret_key = read_secret_key(secret_key_file)
        allowed, problems = _read_folder(authorized_clients)
        if problems:
            raise KeyFileError(problems[0])
        return cls(secret_key=secret_key, folder=authorized_clients, allowed=allowed)

    @property
    def zap_socket(self) -> zmq.SyncSocket:
        """To be polled for input once `apply` was called; `handle` when there is some."""
        assert self._zap is not None, "apply() makes the ZAP socket"
        return self._zap

    def apply(self, socket: zmq.SyncSocket, context: zmq.SyncContext) -> None:
        """Make `socket`, of `context` and not yet bound, take none but allowed clients. Again for another socket."""
        socket.curve_secretkey = self._secret_key
        socket.curve_server = True
        socket.zap_domain = ZAP_DOMAIN
        # Without this, libzmq lets in every CURVE client while nobody is bound to answer.
        socket.zap_enforce_domain = True
        if self._zap is None:
            self._zap = context.socket(zmq.REP)
            self._zap.linger = 0
            self._zap.bind(ZAP_ENDPOINT)

    def handle(self) -> None:
        """Answer the handshakes that wait, at most HANDSHAKES_MAX, without waiting for more."""
        zap = self.zap_socket
        try:
            for _ in range(HANDSHAKES_MAX):
                zap.send_multipart(zap_reply(zap.recv_multipart(_NOBLOCK), self.permits), _NOBLOCK)
        except zmq.Again:
            pass

    def permits(self, user_id: str) -> bool:
        """Whether the owner of this public key is allowed now: a connection outlives its permission."""
        return user_id in self._allowed

    def reload(self) -> list[str]:
        """Read the folder again, and say in a sentence each which files were skipped.

        A folder that cannot be listed changes nothing: to let nobody in, empty it.
        """
        try:
            self._allowed, problems = _read_folder(self._folder)
        except KeyFileError as error:
            return [str(error)]
        return problems

    def close(self) -> None:
        """Stop answering: from now on nobody gets in. A second close does nothing."""
        if self._zap is not None:
            self._zap.close()
            self._zap = None


def zap_reply(frames: Sequence[bytes], permitted: Callable[[str], bool]) -> list[bytes]:
    """The answer to a ZAP request, whatever its bytes: 200 and the key as user id, or 400.

    `permitted` is asked for the public key as 40 Z85 characters, and only in a whole CURVE request of our domain.
    """
    request_id = frames[1] if len(frames) > 1 else b""
    user_id = _user_id(frames)
    if user_id is None:
        return [_ZAP_VERSION, request_id, b"400", b"no CURVE request of this domain", b"", b""]
    if not permitted(user_id):
        return [_ZAP_VERSION, request_id, b"400", b"this key is not allowed", b"", b""]
    return [_ZAP_VERSION, request_id, b"200", b"OK", user_id.encode(), b""]


def _user_id(frames: Sequence[bytes]) -> str | None:
    if len(frames) != 7:
        return None
    version, _request_id, domain, _address, _routing_id, mechanism, key = frames
    if (version, domain, mechanism, len(key)) != (_ZAP_VERSION, ZAP_DOMAIN, b"CURVE", _KEY_BYTES):
        return None
    return z85.encode(key).decode()


def _read_folder(folder: Path) -> tuple[frozenset[str], list[str]]:
    """The keys in its files, and what is wrong with the others. KeyFileError where it cannot be listed.

    Hidden files are left alone: editors and Kubernetes keep their own there.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".key") and not name.startswith("."))
    except OSError as error:
        raise KeyFileError(f"cannot read the folder {folder}: {error.strerror}") from None
    allowed: set[str] = set()
    problems: list[str] = []
    for name in names:
        try:
            allowed.add(read_public_key(folder / name).decode())
        except KeyFileError as error:
            problems.append(str(error))
    return frozenset(allowed), problems

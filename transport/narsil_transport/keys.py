"""CURVE key files: NAME.key holds a public key, NAME.key_secret a secret one that only its owner may read.

A key is one line of 40 Z85 characters. Blank lines are skipped, and comments, which begin with "# ": no key does.
"""

import os
import re
import stat
import struct
from pathlib import Path

import zmq
from zmq.utils import z85

KEY_CHARACTERS = 40
# A key and some comment; whatever is longer is no key file.
FILE_BYTES_MAX = 4096
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class KeyFileError(ValueError):
    """A key file cannot be read, trusted or written. The text is one sentence, and never holds a key."""


def read_public_key(path: Path) -> bytes:
    """The 40 Z85 characters in NAME.key. Raises KeyFileError."""
    return _read_key(path, secret=False)


def read_secret_key(path: Path) -> tuple[bytes, bytes]:
    """The public and the secret key, 40 Z85 characters each, of NAME.key_secret.

    Raises KeyFileError, also where others than its owner have any access to the file.
    """
    secret = _read_key(path, secret=True)
    _want_curve()
    return zmq.curve_public(secret), secret


def write_key_pair(folder: Path, name: str) -> bytes:
    """Make a new pair as NAME.key and NAME.key_secret in `folder`, and return its public key.

    Raises KeyFileError, and leaves neither file, where `name` is no plain file name or either file is there already.
    """
    if not NAME.fullmatch(name):
        raise KeyFileError(f"want a name of letters, digits, '.', '_' and '-', at most 64, got {name!r}")
    _want_curve()
    public, secret = zmq.curve_keypair()
    path = folder / f"{name}.key_secret"
    _write_new(path, 0o600, b"# secret CURVE key of %s: show it to nobody\n%s\n" % (name.encode(), secret))
    try:
        _write_new(folder / f"{name}.key", 0o644, b"# public CURVE key of %s\n%s\n" % (name.encode(), public))
    except KeyFileError:
        path.unlink()
        raise
    return public


def _read_key(path: Path, *, secret: bool) -> bytes:
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            # Of the open file, not of the path: what was checked is what is read.
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise KeyFileError(f"{path} is not a file")
            if secret and mode & 0o077:
                raise KeyFileError(f"{path} is open to others than its owner: chmod 600 {path}")
            text = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from None
    lines = [line for line in map(bytes.strip, text.splitlines()) if line and not line.startswith(b"# ")]
    if len(text) > FILE_BYTES_MAX or len(lines) != 1 or not _is_key(lines[0]):
        raise KeyFileError(f"{path} holds no CURVE key: want one line of {KEY_CHARACTERS} Z85 characters")
    return lines[0]


def _open_without_waiting(path: str, flags: int) -> int:
    """A pipe would wait here for somebody to write."""
    return os.open(path, flags | os.O_NONBLOCK)


def _is_key(text: bytes) -> bool:
    try:
        return len(text) == KEY_CHARACTERS and bool(z85.decode(text))
    except (KeyError, struct.error):  # a character that is none of Z85's; five of them that are more than 32 bits
        return False


def _want_curve() -> None:
    if not zmq.has("curve"):
        raise KeyFileError("the installed libzmq was built without CURVE: keys are of no use to it")


def _write_new(path: Path, mode: int, text: bytes) -> None:
    """Exclusive, and with its mode from the first byte: there is no moment in which others could open a secret."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise KeyFileError(f"cannot write {path}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
    except OSError as error:
        path.unlink()
        raise KeyFileError(f"cannot write {path}: {error.strerror}") from None

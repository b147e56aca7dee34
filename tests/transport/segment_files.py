"""Segments as a client makes them, by hand, and what a server says of them."""

import fcntl
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import pytest

from narsil_transport.messages import AttachRequest, Span
from narsil_transport.segments import FOLDER, Segments
from narsil_transport.status import Refusal, Status

SIZE, GENERATION = 4096, 77
REQUEST_BYTES_MAX = 2048
A, B = b"a", b"b"

needs_shared_memory = pytest.mark.skipif(not os.path.isdir(FOLDER), reason=f"no {FOLDER} here")


@dataclass
class File:
    """A segment as a client makes it, by hand."""

    name: str
    fd: int

    @property
    def path(self) -> Path:
        return Path(FOLDER, self.name)

    def request(self, *, size_bytes: int = SIZE, generation: int = GENERATION) -> AttachRequest:
        return AttachRequest(1, self.name, size_bytes, generation)

    def write(self, offset: int, data: bytes) -> None:
        os.pwrite(self.fd, data, offset)

    def close(self) -> None:
        """As the kernel does for a client that dies."""
        with suppress(OSError):
            os.close(self.fd)


Make = Callable[[], File]


@contextmanager
def created() -> Generator[File]:
    name = f"narsil-test-{token_hex(8)}"
    file = File(name, os.open(f"{FOLDER}/{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        fcntl.flock(file.fd, fcntl.LOCK_EX)
        os.ftruncate(file.fd, SIZE)
        file.write(0, GENERATION.to_bytes(8, "little"))
        yield file
    finally:
        file.close()
        file.path.unlink(missing_ok=True)


def attached(segments: Segments, file: File, identity: bytes = A) -> int:
    number = segments.attach(identity, file.request())
    assert isinstance(number, int), number
    return number


def span(number: int, *lengths: int, offset: int = 8, generation: int = GENERATION) -> Span:
    return Span(number, generation, offset, lengths)


def invalid(outcome: object) -> str:
    assert isinstance(outcome, Refusal) and outcome.status is Status.INVALID, outcome
    return outcome.detail


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))

"""Tensors in the shared memory of clients on this machine: a server attaches it, and copies each request out of it.

Nothing is mapped and nothing is looked at in place: who truncates a segment cannot hurt its reader (SIGBUS), and who
scribbles over one cannot change what has been validated. The lock that a client holds on its segment tells whether it
lives: the kernel takes it back from the dead.
"""

import fcntl
import os
import stat
from dataclasses import dataclass

from narsil_transport.messages import AttachRequest, Span
from narsil_transport.status import Refusal, Status

FOLDER = "/dev/shm"
# A segment begins with its generation, an unsigned little-endian integer; tensors come after it.
GENERATION_BYTES = 8
# Each costs a descriptor, and keeps a client's memory.
SEGMENTS_MAX = 64

# Without waiting: neither for a writer, where the name is a pipe's, nor for whoever holds a lease on the file.
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class _Segment:
    number: int
    fd: int
    size_bytes: int
    generation: int


class Segments:
    """What clients have attached, one each, 64 in all: beyond that, who has not been read for longest goes.

    One request is at most `request_bytes_max` bytes: to name many in a segment costs a client nothing.
    """

    def __init__(self, request_bytes_max: int) -> None:
        self._request_bytes_max = request_bytes_max
        # The least recently used first. Numbers are not used again, so that an old one never names a new segment.
        self._attached: dict[bytes, _Segment] = {}
        self._last_number = 0
        self.reads = 0
        """Requests that were read."""

    def __len__(self) -> int:
        return len(self._attached)

    def attach(self, identity: bytes, request: AttachRequest) -> int | Refusal:
        """The number of the segment that this peer has from now on, in the place of any before; 0 for none."""
        if not request.bytes:
            self.forget(identity)
            return 0
        try:
            fd = os.open(f"{FOLDER}/{request.name}", _OPEN)
        except OSError as error:
            return _invalid(f"segment {request.name} cannot be opened: {error.strerror}")
        flaw = _flaw(fd, request)
        if flaw:
            os.close(fd)
            return _invalid(f"segment {request.name} {flaw}")
        self.forget(identity)
        self.sweep()
        if len(self._attached) >= SEGMENTS_MAX:
            self.forget(next(iter(self._attached)))
        self._last_number += 1
        self._attached[identity] = _Segment(self._last_number, fd, request.bytes, request.generation)
        return self._last_number

    def fetch(self, identity: bytes, span: Span) -> list[bytes] | Refusal:
        """The tensors there, copied. The span's numbers are unsigned, and not trusted otherwise."""
        segment = self._attached.get(identity)
        if segment is None or segment.number != span.segment or segment.generation != span.generation:
            return _invalid(f"segment {span.segment} of generation {span.generation} is not attached")
        total_bytes = sum(span.lengths_bytes)
        if total_bytes > self._request_bytes_max:
            detail = f"{total_bytes} bytes of tensors, at most {self._request_bytes_max} are taken"
            return Refusal(Status.TOO_LARGE, detail)
        if span.offset < GENERATION_BYTES or span.offset + total_bytes > segment.size_bytes:
            return _invalid(f"{total_bytes} bytes from byte {span.offset} are not in segment {span.segment}")
        self._attached[identity] = self._attached.pop(identity)
        tensors: list[bytes] = []
        offset = span.offset
        for length in span.lengths_bytes:
            tensor = os.pread(segment.fd, length, offset)
            if len(tensor) != length:
                return _invalid(f"segment {span.segment} has become shorter")
            tensors.append(tensor)
            offset += length
        # Afterwards: a client that takes a generation back, to use the memory anew, says so before it writes there.
        if _generation(segment.fd) != segment.generation:
            return _invalid(f"segment {span.segment} no longer has generation {span.generation}")
        self.reads += 1
        return tensors

    def forget(self, identity: bytes) -> None:
        """This peer has no segment now, if it had one."""
        segment = self._attached.pop(identity, None)
        if segment is not None:
            os.close(segment.fd)

    def sweep(self) -> None:
        """Forget the segments of clients that have died, or closed them: their memory is free only then."""
        for identity in [identity for identity, segment in self._attached.items() if not _locked(segment.fd)]:
            self.forget(identity)

    def close(self) -> None:
        """Forget all of them."""
        for identity in [*self._attached]:
            self.forget(identity)


def _flaw(fd: int, request: AttachRequest) -> str:
    """Why this open file is not the segment that was promised; empty where it is."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return "is not a file"
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        return "belongs to another user, or is open to others"
    if not GENERATION_BYTES < request.bytes <= status.st_size:
        return f"has {status.st_size} bytes, and {request.bytes} cannot be used"
    if _generation(fd) != request.generation:
        return f"does not begin with generation {request.generation}"
    return "" if _locked(fd) else "is not locked by a client that lives"


def _generation(fd: int) -> int:
    return int.from_bytes(os.pread(fd, GENERATION_BYTES, 0), "little")


def _locked(fd: int) -> bool:
    """Whether anybody else holds the lock. Ours is not kept."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _invalid(detail: str) -> Refusal:
    return Refusal(Status.INVALID, detail)

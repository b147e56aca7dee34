"""A segment of shared memory that a client owns, and which of its bytes are in use."""

import fcntl
import mmap
import os
from bisect import insort
from contextlib import suppress
from dataclasses import dataclass, replace
from secrets import randbits, token_hex
from typing import Any

import numpy as np
import numpy.typing as npt

from narsil_transport.messages import AttachRequest, InferRequest
from narsil_transport.segments import FOLDER, GENERATION_BYTES
from narsil_transport.wire import SPAN_BYTES_MAX, encode_in_segment

# Slots begin at multiples of it: a cache line, so that copying is fast.
_ALIGNMENT = 64


class Slots:
    """The free bytes of a segment of so many: the first gap that is wide enough is taken.

    There are no more slots than requests in flight, so looking at each of them is short.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        # (begin, end), in order.
        self._taken: list[tuple[int, int]] = []

    def take(self, size_bytes: int) -> int | None:
        """Where a new slot of this many bytes, at least 1, begins. None if there is no room."""
        offset = _aligned(GENERATION_BYTES)
        for begin, end in self._taken:
            if begin - offset >= size_bytes:
                break
            offset = _aligned(end)
        if self._size_bytes - offset < size_bytes:
            return None
        insort(self._taken, (offset, offset + size_bytes))
        return offset

    def free(self, offset: int) -> None:
        """The slot that begins there may be taken again."""
        self._taken = [slot for slot in self._taken if slot[0] != offset]


class Segment:
    """Shared memory of one connection. It lives as long as somebody holds this, or an array in it."""

    def __init__(self, name: str, memory: mmap.mmap, generation: int) -> None:
        self.name = name
        self._memory = memory
        self._generation = generation
        self._slots = Slots(len(memory))

    def attach_request(self, request_id: int) -> AttachRequest:
        """What makes a server open it."""
        return AttachRequest(request_id, self.name, len(self._memory), self._generation)

    def unlink(self) -> None:
        """Take its name away: once nobody has it open any more, nothing is left of it."""
        with suppress(FileNotFoundError):
            os.unlink(f"{FOLDER}/{self.name}")

    def write(self, request: InferRequest, number: int) -> "Loan | None":
        """Copy its tensors to a slot, for the server that knows this segment by `number`. None if no slot is free."""
        size_bytes = payload_bytes(request)
        offset = self._slots.take(size_bytes) if size_bytes <= SPAN_BYTES_MAX else None
        if offset is None:
            return None
        copy = self._copied(request, offset)
        header, _ = encode_in_segment(copy, segment=number, generation=self._generation, offset=offset)
        return Loan(self, offset, copy, header)

    def free(self, offset: int) -> None:
        """The slot that begins there may be written again."""
        self._slots.free(offset)

    def _copied(self, request: InferRequest, offset: int) -> InferRequest:
        """The request with its tensors here, back to back from `offset` in the order of the wire."""
        end = offset

        def moved(array: npt.NDArray[Any] | None) -> Any:
            nonlocal end
            if array is None:
                return None
            begin, end = end, end + array.nbytes
            # As bytes: numpy would copy element by element to where its dtype is not aligned.
            self._memory[begin:end] = np.ascontiguousarray(array).data
            return np.ndarray(array.shape, array.dtype, self._memory, begin)

        dense, ids = moved(request.dense), moved(request.ids)
        lengths, values = moved(request.lengths), moved(request.values)
        user = request.user
        if user is not None:
            user = replace(
                user,
                dense_mask=user.dense_mask.copy(),
                feature_mask=user.feature_mask.copy(),
                dense=moved(user.dense),
                ids=moved(user.ids),
                lengths=moved(user.lengths),
                values=moved(user.values),
            )
        return replace(request, dense=dense, ids=ids, lengths=lengths, values=values, user=user)


@dataclass(slots=True, eq=False)
class Loan:
    """A slot, the request whose arrays lie in it, and the only frame of the message that names it."""

    segment: Segment
    offset: int
    request: InferRequest
    header: bytes

    def end(self) -> None:
        """Give the slot back. If the server has yet to read it, then for an answer that nobody waits for."""
        self.segment.free(self.offset)


def create_segment(size_bytes: int) -> Segment:
    """A new one that only this user can open, under a name that nobody can guess. Raises OSError."""
    name, generation = f"narsil-{token_hex(16)}", randbits(63)
    fd = os.open(f"{FOLDER}/{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # Held until the memory is unmapped, which keeps a descriptor: by it a server sees that this client lives.
        fcntl.flock(fd, fcntl.LOCK_EX)
        # Allocated now, where it can fail, and not by a write, where that is a SIGBUS.
        os.posix_fallocate(fd, 0, size_bytes)
        memory = mmap.mmap(fd, size_bytes)
    except BaseException:
        os.unlink(f"{FOLDER}/{name}")
        raise
    finally:
        os.close(fd)
    memory[:GENERATION_BYTES] = generation.to_bytes(GENERATION_BYTES, "little")
    return Segment(name, memory, generation)


def payload_bytes(request: InferRequest) -> int:
    """How many bytes its tensors have together."""
    arrays = [request.dense, request.ids, request.lengths, request.values]
    if request.user is not None:
        arrays += [request.user.dense, request.user.ids, request.user.lengths, request.user.values]
    return sum(array.nbytes for array in arrays if array is not None)


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT

"""One golden message and what its reader makes of it."""

from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from narsil_transport.status import Refusal, Status
from narsil_transport.wire import (
    Frame,
    Refused,
    Span,
    StageTimes,
    WireError,
    decode_reply,
    decode_request,
)

# What the attached segment is called in INFERs, and what its first 8 bytes hold.
SEGMENT, GENERATION = 1, 5
SEGMENT_START = GENERATION.to_bytes(8, "little")


@dataclass(frozen=True, slots=True)
class Case:
    """One message: its name, who reads it ("request": the server, "reply": the client) and its frames.

    `segment` is the whole shared memory that this connection attached; without it the reader offers none.
    """

    name: str
    reader: str
    frames: tuple[Frame, ...]
    segment: bytes | None = None

    def meaning(self) -> Any:
        """What the reader makes of the frames, as JSON values."""
        if self.reader == "request":
            fetch = None if self.segment is None else self.fetch
            return described(decode_request(self.frames[0], self.frames[1:], fetch))
        try:
            return described(decode_reply(self.frames))
        except WireError:
            return {"type": "WireError"}

    def fetch(self, span: Span) -> list[bytes] | Refusal:
        """The bytes of the segment, as a server copies them."""
        memory = self.segment or b""
        ends = [*accumulate(span.lengths_bytes, initial=span.offset)]
        if (span.segment, span.generation) != (SEGMENT, GENERATION) or ends[-1] > len(memory):
            return Refusal(Status.INVALID, "this is not in the attached segment")
        return [memory[begin:end] for begin, end in pairwise(ends)]


def described(value: object) -> Any:
    """A message as JSON values: its type and fields, arrays with dtype, shape and flat values."""
    if isinstance(value, np.ndarray):
        flat = value.reshape(-1).tolist()
        return {"dtype": value.dtype.str[1:], "shape": list(value.shape), "values": flat}
    if isinstance(value, StageTimes):
        return value._asdict()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Refused):
        # The status is contract; the sentence is for a person and may change.
        return {"type": "Refused", "request_id": value.request_id, "status": value.refusal.status.name}
    if is_dataclass(value) and not isinstance(value, type):
        members = {field.name: described(getattr(value, field.name)) for field in fields(value)}
        return {"type": type(value).__name__, **members}
    return value

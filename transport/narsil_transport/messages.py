"""What travels: the requests and replies as values, with no knowledge of bytes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from narsil_transport.status import Refusal

Floats = npt.NDArray[np.float32]
Lengths = npt.NDArray[np.int32]
Ids = npt.NDArray[np.int32] | npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# What a client may leave unanswered at a server that has not yet said what it grants: the wire contract.
WINDOW_START = 64
# No slash: the name is that of a file in the server's own folder of segments.
_SEGMENT_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Operation(IntEnum):
    """What a request asks for. ADMIN is reserved: version 1 answers it UNSUPPORTED."""

    INFER = 1
    HEALTH = 2
    METADATA = 3
    CANCEL = 4
    ADMIN = 5
    ATTACH = 6


class Priority(IntEnum):
    """Who waits for the scores. BULK takes the room that INTERACTIVE leaves. The numbers are the wire contract."""

    INTERACTIVE = 0
    BULK = 1


class HealthState(StrEnum):
    """Whether the server takes new work."""

    READY = "ready"
    DRAINING = "draining"


class StageTimes(NamedTuple):
    """Where a reply's time went, in microseconds; `server_us` runs from receipt to reply."""

    queue_us: float
    fill_us: float
    launch_us: float
    read_us: float
    server_us: float


@dataclass(frozen=True, slots=True, eq=False)
class UserPart:
    """The columns and features that are the same in every row of a request, with their values, sent once.

    dense_mask bool [D] and feature_mask bool [T] say which they are, dense float32 [Du] and either ids int32|int64 [Tu]
    or lengths int32 [Tu] and values int32|int64 [nnz] what they hold, in model order. Raises ValueError where these
    do not fit each other.
    """

    dense_mask: Mask
    feature_mask: Mask
    dense: Floats
    ids: Ids | None = None
    lengths: Lengths | None = None
    values: Ids | None = None

    def __post_init__(self) -> None:
        for name, mask in (("dense_mask", self.dense_mask), ("feature_mask", self.feature_mask)):
            if mask.dtype != np.bool_ or mask.ndim != 1:
                raise ValueError(f"{name} wants bool [n], got {mask.dtype} {[*mask.shape]}")
        columns, features = np.count_nonzero(self.dense_mask), np.count_nonzero(self.feature_mask)
        if self.dense.shape != (columns,):
            raise ValueError(f"the user's dense wants shape [{columns}], as its mask says, got {[*self.dense.shape]}")
        if (self.ids is None) is (self.lengths is None) or (self.lengths is None) is not (self.values is None):
            raise ValueError("the user's part wants either ids, or both lengths and values")
        name, keyed = ("lengths", self.lengths) if self.ids is None else ("ids", self.ids)
        assert keyed is not None
        if keyed.shape != (features,):
            raise ValueError(f"the user's {name} want shape [{features}], as the mask says, got {[*keyed.shape]}")
        if self.values is not None and self.values.ndim != 1:
            raise ValueError(f"the user's values want 1 dimension, got {[*self.values.shape]}")


@dataclass(slots=True, eq=False)
class InferRequest:
    """Score n rows. Either `ids` is set (one id per feature) or both `lengths` and `values` are (multi-hot).

    dense float32 [n, D], ids int32|int64 [n, T], lengths int32 [n, T], values int32|int64 [nnz], sample-major.
    With a `user` part these hold the other columns and features only. A decoded request's arrays are read-only views of
    its frames. `deadline_us` counts from receipt. Requests of one `key` are scored by the same variant of a server
    that splits them over several.
    """

    request_id: int
    model: str
    deadline_us: int | None
    traceparent: str | None
    dense: Floats
    ids: Ids | None
    lengths: Lengths | None
    values: Ids | None
    priority: Priority = Priority.INTERACTIVE
    user: UserPart | None = None
    key: str | None = None

    @property
    def rows(self) -> int:
        """n, the number of rows to score."""
        return len(self.dense)


@dataclass(slots=True)
class ControlRequest:
    """A HEALTH or METADATA question."""

    request_id: int
    operation: Operation


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """The peer no longer wants the scores of its INFER `request_id`. It has no reply of its own."""

    request_id: int


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """From now on this connection's tensors may lie in the shared memory `name` of `bytes` bytes; 0 takes that back.

    `generation` is what its first 8 bytes hold. Raises ValueError on what cannot be a segment.
    """

    request_id: int
    name: str
    bytes: int
    generation: int

    def __post_init__(self) -> None:
        if not _SEGMENT_NAME.fullmatch(self.name):
            raise ValueError(f"a segment's name wants 1 to 64 letters, digits, '.', '_' and '-', got {self.name!r:.80}")
        if min(self.bytes, self.generation) < 0:
            raise ValueError(f"want no negative size or generation, got {self.bytes} and {self.generation}")


@dataclass(frozen=True, slots=True)
class Span:
    """Where the tensors of a request lie: back to back from byte `offset` of an attached segment of this generation."""

    segment: int
    generation: int
    offset: int
    lengths_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """What a bad message decodes to. `request_id` is 0 where the id could not be read."""

    request_id: int
    refusal: Refusal


@dataclass(frozen=True, slots=True, eq=False)
class ScoresReply:
    """The scores float32 [n] of one request, their batch, and which variant of a server with several gave them."""

    request_id: int
    version: str
    bucket_rows: int
    rows_filled: int
    times: StageTimes
    traceparent: str | None
    scores: Floats
    window: int | None = None
    variant: str | None = None


@dataclass(frozen=True, slots=True)
class RefusalReply:
    """Any request's typed failure."""

    request_id: int
    version: str
    refusal: Refusal
    window: int | None = None


@dataclass(frozen=True, slots=True)
class HealthReply:
    """The server's state and load."""

    request_id: int
    version: str
    state: HealthState
    inflight: int
    uptime_s: float
    window: int | None = None


@dataclass(frozen=True, slots=True)
class MetadataReply:
    """The served model's specification, as the server wrote it."""

    request_id: int
    version: str
    meta: Mapping[str, Any]
    window: int | None = None


@dataclass(frozen=True, slots=True)
class AttachReply:
    """The number by which an INFER names the segment now attached; 0, which none has, once it is detached."""

    request_id: int
    version: str
    segment: int
    window: int | None = None

"""What travels: the requests and replies as values, with no knowledge of bytes."""

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


class Operation(IntEnum):
    """What a request asks for. ADMIN is reserved: version 1 answers it UNSUPPORTED."""

    INFER = 1
    HEALTH = 2
    METADATA = 3
    CANCEL = 4
    ADMIN = 5


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


@dataclass(slots=True, eq=False)
class InferRequest:
    """Score n rows. Either `ids` is set (one id per feature) or both `lengths` and `values` are (multi-hot).

    dense float32 [n, D], ids int32|int64 [n, T], lengths int32 [n, T], values int32|int64 [nnz], sample-major.
    A decoded request's arrays are read-only views of its frames. `deadline_us` counts from receipt.
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
class Refused:
    """What a bad message decodes to. `request_id` is 0 where the id could not be read."""

    request_id: int
    refusal: Refusal


@dataclass(frozen=True, slots=True, eq=False)
class ScoresReply:
    """The scores float32 [n] of one request, and the batch they were computed in."""

    request_id: int
    version: str
    bucket_rows: int
    rows_filled: int
    times: StageTimes
    traceparent: str | None
    scores: Floats


@dataclass(frozen=True, slots=True)
class RefusalReply:
    """Any request's typed failure."""

    request_id: int
    version: str
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class HealthReply:
    """The server's state and load."""

    request_id: int
    version: str
    state: HealthState
    inflight: int
    uptime_s: float


@dataclass(frozen=True, slots=True)
class MetadataReply:
    """The served model's specification, as the server wrote it."""

    request_id: int
    version: str
    meta: Mapping[str, Any]

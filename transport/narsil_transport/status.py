"""What a reply can say, and the refusal as a value."""

from dataclasses import dataclass
from enum import IntEnum


class Status(IntEnum):
    """The status of a reply. The numbers are the wire contract: never reuse one, only add."""

    OK = 0
    INVALID = 1
    UNSUPPORTED = 2
    UNKNOWN_MODEL = 3
    TOO_LARGE = 4
    OUT_OF_RANGE = 5
    NOT_FINITE = 6
    DEADLINE_EXCEEDED = 7
    WOULD_MISS = 8
    OVERLOADED = 9
    DRAINING = 10
    UNAVAILABLE = 11
    INTERNAL = 12
    CANCELLED = 13
    UNAUTHORIZED = 14


@dataclass(frozen=True, slots=True)
class Refusal:
    """An expected failure: answered to the client and counted, never raised, never logged with a traceback.

    `detail` is one sentence for a person. `retry_after_us` is set where waiting may help. `predicted_us`,
    counted from receipt, is when the scores would have come, where that is the reason.
    """

    status: Status
    detail: str
    retry_after_us: int | None = None
    predicted_us: int | None = None

    def __post_init__(self) -> None:
        if self.status is Status.OK:
            raise ValueError("a refusal cannot have the status OK")
        if self.retry_after_us is not None and self.retry_after_us < 0:
            raise ValueError(f"want retry_after_us of at least 0, got {self.retry_after_us}")
        if self.predicted_us is not None and self.predicted_us < 0:
            raise ValueError(f"want predicted_us of at least 0, got {self.predicted_us}")

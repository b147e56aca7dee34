"""What a benchmark asks: any server, through a small adapter."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from narsil_transport.messages import StageTimes

Floats = NDArray[np.float32]
Int32s = NDArray[np.int32]

OK, TIMEOUT, LOST = "OK", "TIMEOUT", "LOST"


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """One request: dense f4 [n, D] and one id per feature, ids i4 [n, F]; where recorded, its budget and priority."""

    dense: Floats
    ids: Int32s
    deadline_us: int | None = None
    bulk: bool = False

    def __post_init__(self) -> None:
        if not len(self.dense) or len(self.dense) != len(self.ids):
            raise ValueError(f"want rows, as many dense as ids, got {len(self.dense)} and {len(self.ids)}")

    def __len__(self) -> int:
        return len(self.dense)


@dataclass(slots=True, eq=False)
class Done:
    """How the request that was submitted as `number` ended, when its answer was in the client's hands.

    `status` is OK, a refusal's name, TIMEOUT or LOST; `scores` f4 [n] are there exactly if it is OK. `times` are what
    the server told of its stages, and `variant` which of its models answered, where it tells.
    """

    number: int
    done_ns: int
    status: str
    scores: Floats | None = None
    times: StageTimes | None = None
    variant: str | None = None


class Subject(Protocol):
    """A connection to one server, for one thread. Whatever is submitted ends in one Done."""

    def submit(self, number: int, rows: Rows) -> bool:
        """Send a request. False if there is no room for it now: `poll`, then try again."""
        ...

    def poll(self, timeout_s: float) -> list[Done]:
        """What has ended; waits for something at most so long. With 0 it only looks."""
        ...

    def close(self) -> None:
        """Disconnect, whatever is still under way."""
        ...


@dataclass(frozen=True, slots=True)
class Started:
    """A server that answers. `connect` makes a Subject for at most so many in flight; `pids` are its processes."""

    connect: Callable[[int], Subject]
    pids: tuple[int, ...] = ()


Starting = AbstractContextManager[Started]
"""Entered, the server runs; left, it is gone. An adapter module has `start(model: Path) -> Starting`."""

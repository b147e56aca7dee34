"""The seam between a batch and what runs it: capture once per bucket, then launch."""

import enum
from typing import Protocol, TypeVar

import numpy as np
from narsil_transport.buckets import Bucket
from numpy.typing import NDArray

from narsil_graph.engine.arena import Arena


class Precision(enum.Enum):
    """The arithmetic of the dense layers. Scores are float32 whatever it is."""

    F32 = "f32"
    BF16 = "bf16"
    INT8 = "int8"


class Slot(Protocol):
    """One captured program and the static memory it reads and writes."""

    @property
    def arena(self) -> Arena: ...


S = TypeVar("S", bound=Slot)


class Launcher(Protocol[S]):
    """Runs batches: a CPU plan or the eager forward; a CUDA graph takes the same place."""

    def capture(self, bucket: Bucket) -> S:
        """Allocate and prepare everything that a batch of ``bucket`` needs."""
        ...

    def launch(self, slot: S) -> None:
        """Score what lies in the slot's arena."""
        ...

    def ready(self, slot: S) -> bool:
        """Whether the last launch of ``slot`` has finished. Never blocks."""
        ...

    def scores(self, slot: S) -> NDArray[np.float32]:
        """The scores f4 [bucket rows] of the last launch, valid until the next one of this slot."""
        ...

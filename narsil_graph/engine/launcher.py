"""The seam between a batch and what runs it: capture once per bucket, then launch."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from narsil_graph.engine.arena import Arena
from narsil_transport.buckets import Bucket


class Precision(enum.Enum):
    """The arithmetic of the dense layers. Scores are float32 whatever it is."""

    F32 = "f32"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(slots=True)
class Slot:
    """A captured program and the static memory it works on.

    ``program`` scores what lies in ``arena`` into ``scores`` f4 [bucket rows]; ``kernels`` says what it is made of.
    """

    arena: Arena
    program: Callable[[], object]
    scores: NDArray[np.float32]
    kernels: str


class Launcher(Protocol):
    """Runs batches: a CPU plan or the eager forward; a CUDA graph takes the same place.

    ``launch``, ``ready`` and ``scores`` are here for launchers that run a slot's program in the calling thread.
    """

    def capture(self, bucket: Bucket) -> Slot:
        """Allocate and prepare everything that a batch of ``bucket`` needs."""
        ...

    def launch(self, slot: Slot) -> None:
        """Score what lies in the slot's arena."""
        with torch.inference_mode():
            slot.program()

    def ready(self, slot: Slot) -> bool:
        """Whether the last launch of ``slot`` has finished. Never blocks."""
        return True

    def scores(self, slot: Slot) -> NDArray[np.float32]:
        """The scores f4 [bucket rows] of the last launch, valid until the next one of this slot."""
        return slot.scores

"""The seam between a batch and what runs it: prepare, capture once per bucket, then launch."""

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from narsil_graph.engine.arena import Arena
from narsil_graph.errors import Failure
from narsil_transport.buckets import Bucket


class Precision(enum.Enum):
    """The arithmetic of the dense layers. Scores are float32 whatever it is."""

    F32 = "f32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"


class DeviceFault(Failure):
    """The accelerator failed. Its context is lost, so the process can only answer what it accepted and end."""

    leaves_at_once = True


@dataclass(slots=True)
class Slot:
    """A captured program and the static memory it works on.

    ``program`` scores what lies in ``arena`` into ``scores`` f4 [bucket rows]; ``kernels`` says what it is made of and
    ``nodes`` how many graph nodes that is (0 where there is no graph). Slots of one lane run one after another.
    """

    arena: Arena
    program: Callable[[], object]
    scores: NDArray[np.float32]
    kernels: str
    nodes: int = 0
    lane: int = 0
    in_flight: bool = field(default=False, init=False)


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one bucket: ``problem`` is None where it passed, else one sentence."""

    check: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes held: in the device allocator's pools, in page-locked host memory, and on the device by anyone at all.

    All 0 where there is no device.
    """

    pool_bytes: int = 0
    pinned_bytes: int = 0
    device_bytes: int = 0


class Launcher(Protocol):
    """Runs batches: a CUDA graph, a CPU plan or the eager forward.

    Every verb but ``capture`` has its body here, for launchers that run a slot's program in the calling thread.
    """

    eager: bool = False
    """Whether launches run operator by operator rather than what was captured. They are counted apart."""
    slots_per_lane: int = 1
    """Launches that a lane takes before the first has been read: one is filled while another runs."""

    def prepare(self, buckets: Sequence[Bucket]) -> None:
        """Allocate what these buckets need and run each shape once, before their capture."""
        return

    def capture(self, bucket: Bucket) -> tuple[Slot, ...]:
        """Every lane's slots for ``bucket``."""
        ...

    def launch(self, slot: Slot) -> None:
        """Score what lies in the slot's arena. May return before the scores are there."""
        with torch.inference_mode():
            slot.program()

    def ready(self, slot: Slot) -> bool:
        """Whether the last launch of ``slot`` has finished. Never blocks. Raises DeviceFault."""
        return True

    def wait(self, slot: Slot) -> None:
        """Return when the last launch of ``slot`` has finished. Raises DeviceFault."""
        return

    def scores(self, slot: Slot) -> NDArray[np.float32]:
        """The scores f4 [bucket rows] of the last launch, which has finished; valid until the slot's next one."""
        return slot.scores

    def examine(self, slot: Slot) -> Iterator[Finding]:
        """The checks of a slot that only its launcher can make."""
        return iter(())

    def footprint(self) -> Footprint:
        """What the launcher's pools hold now. Launches must not change it."""
        return Footprint()

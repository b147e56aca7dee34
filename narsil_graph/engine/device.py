"""The little of CUDA that capturing and replaying needs, as a seam: its rules are tested where there is no device."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from narsil_graph.engine.graph_nodes import GraphNode
from narsil_graph.engine.launcher import Footprint

Program = Callable[[], object]


class Graph(Protocol):
    """A captured program. It must outlive every graph that shares its pool, so it is never freed alone."""

    def replay(self) -> None:
        """Run it on its lane's stream: one launch, which returns before the work is done."""
        ...

    def nodes(self) -> tuple[GraphNode, ...]:
        """What was captured, in the order of capture."""
        ...

    def write_dot(self, path: Path) -> None:
        """Write it in the DOT language."""
        ...


class Event(Protocol):
    """A mark on a lane's stream."""

    def record(self) -> None:
        """Move the mark behind everything launched so far."""
        ...

    def query(self) -> bool:
        """Whether the stream has passed the mark. Never blocks. Raises DeviceFault."""
        ...

    def synchronize(self) -> None:
        """Sleep until the stream has passed the mark. Raises DeviceFault."""
        ...


class Lane(Protocol):
    """A stream of launches with its own pool of graph memory."""

    def warm_up(self, program: Program) -> None:
        """Run ``program`` on the stream until it has made all it makes lazily; a hidden wait for the device raises."""
        ...

    def capture(self, program: Program) -> Graph:
        """Record ``program`` into the lane's pool. Raises DeviceFault, after which the lane is unusable."""
        ...

    def event(self) -> Event:
        """A new mark; unrecorded, it counts as passed."""
        ...


class Device(Protocol):
    """Where graphs run."""

    torch_device: torch.device

    def pinned(self, size_bytes: int) -> Tensor:
        """Zeroed page-locked host memory, uint8 [size_bytes], never freed while a graph copies from or to it."""
        ...

    def place(self, tensor: Tensor) -> Tensor:
        """A contiguous copy of a host ``tensor`` in device memory."""
        ...

    def open_lane(self) -> Lane:
        """A new stream with a new pool."""
        ...

    def footprint(self) -> Footprint:
        """What the allocators hold now."""
        ...

    def free_bytes(self) -> int:
        """Device memory that is still to be had."""
        ...

    def allow_tf32(self, allowed: bool) -> None:
        """Whether float32 products may be made of TF32's ten-bit mantissas."""
        ...

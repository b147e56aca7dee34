"""A small program between two copies, for the tests of the tape device."""

from collections.abc import Callable

import torch
from torch import Tensor

from narsil_graph.engine.device import Graph, Lane
from tests.engine.tape import TapeDevice

ROWS, WIDTH = 4, 6
Operation = Callable[[Tensor], Tensor]


class Rig:
    """A program that copies ROWS x WIDTH floats in, applies ``operation``, and copies the float32 result out."""

    def __init__(self, operation: Operation, *, device: TapeDevice | None = None, lane: Lane | None = None) -> None:
        self.device = device or TapeDevice()
        self.lane = lane or self.device.open_lane()
        self.pinned = self.device.pinned(ROWS * WIDTH * 4).view(torch.float32).view(ROWS, WIDTH)
        self.resident = self.device.place(torch.ones(ROWS, WIDTH))
        shape = operation(torch.ones(ROWS, WIDTH)).shape
        self.result = self.device.pinned(shape.numel() * 4).view(torch.float32).view(shape)
        self.event = self.lane.event()
        self._operation = operation

    @torch.inference_mode()
    def program(self) -> None:
        self.resident.copy_(self.pinned, non_blocking=True)
        self.result.copy_(self._operation(self.resident), non_blocking=True)

    def capture(self) -> Graph:
        return self.lane.capture(self.program)

    def score(self, graph: Graph, rows: Tensor) -> Tensor:
        self.pinned.copy_(rows)
        graph.replay()
        self.event.record()
        self.event.synchronize()
        return self.result.clone()


def some_rows(seed: int) -> Tensor:
    return torch.rand(ROWS, WIDTH, generator=torch.Generator().manual_seed(seed))

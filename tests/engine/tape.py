"""A device without a device: programs are recorded on CPU tensors and replayed as CUDA graphs are.

A replay runs the recorded operators again on the memory and with the numbers of the capture; the program's Python never
runs again. Capturing leaves all memory as it was, replays finish only when somebody has asked for long enough, and what
a graph computed between its two copies is gone once another one has run.
"""

import weakref
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from narsil_graph.engine.device import Device, Event, Graph, Lane, Program
from narsil_graph.engine.graph_nodes import GraphNode
from narsil_graph.engine.launcher import DeviceFault, Footprint
from tests.engine.tape_ops import HostReads, Memory, Place, Step, Tape, poison


class TapeDevice(Device):
    """``calls`` holds what was asked of the device and its parts, in order: "pinned 4096", "capture", "replay".

    ``lag`` is how often an event says no before it says yes. ``fail_at`` is the first word of the call that faults, and
    from then on every call does; "run" is a fault of the replayed work, which the next wait or query reports.
    """

    def __init__(self, *, lag: int = 0, memory_bytes: int = 1 << 30) -> None:
        self.torch_device = torch.device("cpu")
        self.calls: list[str] = []
        self.lag = lag
        self.fail_at = ""
        self.memory = Memory()
        self._memory_bytes = memory_bytes
        self._pinned_bytes = self._placed_bytes = 0
        self._lanes: list[TapeLane] = []
        self._capturing = False
        self._lost = False

    def pinned(self, size_bytes: int) -> Tensor:
        if self._capturing:
            raise DeviceFault("pinned memory allocated during capture")
        self.called(f"pinned {size_bytes}")
        tensor = torch.zeros(size_bytes, dtype=torch.uint8)
        self.memory.add(tensor, Place.PINNED)
        self._pinned_bytes += size_bytes
        return tensor

    def place(self, tensor: Tensor) -> Tensor:
        self.called(f"place {tensor.nbytes}")
        placed = tensor.detach().clone(memory_format=torch.contiguous_format)
        if placed.nbytes:
            self.memory.add(placed, Place.DEVICE)
        self._placed_bytes += placed.nbytes
        return placed

    def open_lane(self) -> Lane:
        self.called("open lane")
        self._lanes.append(TapeLane(self))
        return self._lanes[-1]

    def footprint(self) -> Footprint:
        held = self._placed_bytes + sum(lane.pool_bytes for lane in self._lanes)
        return Footprint(pool_bytes=held, pinned_bytes=self._pinned_bytes, device_bytes=held)

    def free_bytes(self) -> int:
        return self._memory_bytes - self.footprint().device_bytes

    def allow_tf32(self, allowed: bool) -> None:
        self.called(f"tf32 {allowed}")

    def finish(self) -> None:
        """Let every replay finish without being asked, as on a real device time alone does."""
        for lane in self._lanes:
            lane.run_until(lane.launched)

    def called(self, call: str) -> None:
        """Note a call, and raise where it is to fail or may not be made now."""
        if self._capturing:
            raise DeviceFault(f"{call} during capture")
        self.calls.append(call)
        self._fail_at(call)

    def run(self, steps: Sequence[Step]) -> None:
        self._fail_at("run")
        with torch.inference_mode():
            for step in steps:
                step.again()

    def _fail_at(self, call: str) -> None:
        self._lost = self._lost or (self.fail_at != "" and call.startswith(self.fail_at))
        if self._lost:
            raise DeviceFault(f"the tape device failed at {self.fail_at!r}")

    @contextmanager
    def capture(self, tape: Tape) -> Generator[None]:
        self._capturing = True
        try:
            with self.watch(tape):
                yield
        finally:
            self._capturing = False
            tape.undo()

    @contextmanager
    def watch(self, tape: Tape) -> Generator[None]:
        with HostReads(self.memory), tape:
            yield


class TapeLane(Lane):
    """Replays one after another, each on a pool that holds nothing of the one before it."""

    def __init__(self, device: TapeDevice) -> None:
        self.device = device
        self.launched = self.done = self.pool_bytes = 0
        self._pending: deque[TapeGraph] = deque()
        self._graphs: list[weakref.ref[TapeGraph]] = []
        self._garbage: Sequence[Tensor] = ()
        self._broken = False

    def warm_up(self, program: Program) -> None:
        self.device.called("warm up")
        self.run_until(self.launched)
        with self.device.watch(Tape(self.device.memory)):
            program()

    def capture(self, program: Program) -> Graph:
        self.device.called("capture")
        if self._broken:
            raise DeviceFault("a capture on this lane has failed before")
        tape = Tape(self.device.memory)
        self._broken = True
        with self.device.capture(tape):
            program()
        self._broken = False
        graph = TapeGraph(self, tape)
        self._graphs.append(weakref.ref(graph))
        # Graphs that never run at the same time share their memory.
        self.pool_bytes = max(self.pool_bytes, sum(tensor.untyped_storage().nbytes() for tensor in tape.made))
        return graph

    def event(self) -> Event:
        return TapeEvent(self)

    def launch(self, graph: "TapeGraph") -> None:
        self.device.called("replay")
        if any(other() is None for other in self._graphs):
            raise DeviceFault("a graph of this pool has been freed while others live")
        self._pending.append(graph)
        self.launched += 1

    def run_until(self, mark: int) -> None:
        """Execute the pending replays up to the ``mark``-th of this lane."""
        while self.done < mark:
            graph = self._pending.popleft()
            self.done += 1
            poison(self._garbage)
            self._garbage = graph.made
            self.device.run(graph.steps)


class TapeGraph(Graph):
    """What a program did at its capture."""

    def __init__(self, lane: TapeLane, tape: Tape) -> None:
        self.steps = tuple(tape.steps)
        self.made = tuple(tape.made)
        self._lane = lane

    def replay(self) -> None:
        self._lane.launch(self)

    def nodes(self) -> tuple[GraphNode, ...]:
        return tuple(node for step in self.steps for node in step.nodes())

    def write_dot(self, path: Path) -> None:
        nodes = [f'  n{place} [label="{node.name or node.kind.value}"]' for place, node in enumerate(self.nodes())]
        path.write_text("\n".join(["digraph tape {", *nodes, "}"]) + "\n")


class TapeEvent(Event):
    """Says no ``lag`` times, then lets the lane run up to it."""

    def __init__(self, lane: TapeLane) -> None:
        self._lane = lane
        self._mark = self._noes = 0

    def record(self) -> None:
        self._lane.device.called("record")
        self._mark, self._noes = self._lane.launched, self._lane.device.lag

    def query(self) -> bool:
        self._lane.device.called("query")
        if self._lane.done < self._mark and self._noes:
            self._noes -= 1
            return False
        self._lane.run_until(self._mark)
        return True

    def synchronize(self) -> None:
        self._lane.device.called("synchronize")
        self._lane.run_until(self._mark)

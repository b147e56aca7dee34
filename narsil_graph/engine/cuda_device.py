"""The CUDA device through torch: streams, pools, captures, marks."""

import gc
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from narsil_graph.engine.device import Device, Event, Graph, Lane, Program
from narsil_graph.engine.graph_nodes import GraphNode, read_nodes, write_dot
from narsil_graph.engine.launcher import DeviceFault, Footprint

# Enough for everything that libraries make at a first or second call (cuBLAS handles and workspaces, kernel modules).
WARM_UP_RUNS = 3


def fault(doing: str, error: RuntimeError) -> DeviceFault:
    """One sentence of torch's error, without the advice that torch appends."""
    return DeviceFault(f"CUDA failed while {doing}: {str(error).splitlines()[0]}")


@contextmanager
def faults(doing: str) -> Generator[None]:
    """torch's CUDA errors as DeviceFault. Launches and polls do without: entering this costs a microsecond."""
    try:
        yield
    except RuntimeError as error:
        raise fault(doing, error) from error


@contextmanager
def hidden_waits_raise() -> Generator[None]:
    """While entered, an operator of torch that waits for the device raises RuntimeError instead."""
    with warnings.catch_warnings():
        # That it does not know every operator that waits: a capture does, and fails at the others.
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype", UserWarning)
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            # Before anyone's own wait, which would raise as well.
            torch.cuda.set_sync_debug_mode("default")


class CudaDevice(Device):
    """torch's current CUDA device. ``cuda_support.require_cuda`` has found it usable."""

    def __init__(self) -> None:
        self.torch_device = torch.device("cuda", torch.cuda.current_device())

    def pinned(self, size_bytes: int) -> Tensor:
        with faults("allocating page-locked memory"):
            return torch.zeros(size_bytes, dtype=torch.uint8, pin_memory=True)

    def place(self, tensor: Tensor) -> Tensor:
        with faults("allocating device memory"):
            return tensor.to(self.torch_device).contiguous()

    def open_lane(self) -> Lane:
        return CudaLane(torch.cuda.Stream(self.torch_device))  # type: ignore[no-untyped-call]

    def footprint(self) -> Footprint:
        free_bytes, all_bytes = torch.cuda.mem_get_info(self.torch_device)
        return Footprint(
            pool_bytes=torch.cuda.memory_reserved(self.torch_device),
            pinned_bytes=torch.cuda.host_memory_stats()["allocated_bytes.current"],
            device_bytes=all_bytes - free_bytes,
        )

    def free_bytes(self) -> int:
        free_bytes, _ = torch.cuda.mem_get_info(self.torch_device)
        return free_bytes

    def allow_tf32(self, allowed: bool) -> None:
        torch.set_float32_matmul_precision("high" if allowed else "highest")


class CudaLane(Lane):
    """One stream. All of its captures and launches come from one thread."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, program: Program) -> None:
        with faults("warming up"):
            # What was placed on the default stream is there before this one reads it.
            torch.cuda.synchronize()
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UP_RUNS):
                    with hidden_waits_raise():
                        program()
            self._stream.synchronize()

    def capture(self, program: Program) -> Graph:
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        # A collection could free a tensor, and with it device memory, in the middle of the capture.
        gc.collect()
        gc.disable()
        try:
            with (
                faults("capturing"),
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="global"),
            ):
                program()
        finally:
            gc.enable()
        with faults("instantiating a graph"):
            graph.instantiate()
            captured = CudaGraph(graph, self._stream)
            # The first launch uploads the graph; no request should wait for that.
            captured.replay()
            self._stream.synchronize()
        return captured

    def event(self) -> Event:
        return CudaEvent(self._stream)


class CudaGraph(Graph):
    """An instantiated graph that kept its definition for the doctor to read."""

    def __init__(self, graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> None:
        self._graph = graph
        self._stream = stream

    def replay(self) -> None:
        try:
            # A replay goes to the current stream. Setting it is one call; a context manager would make six.
            torch.cuda.set_stream(self._stream)
            self._graph.replay()
        except RuntimeError as error:
            raise fault("launching", error) from error

    def nodes(self) -> tuple[GraphNode, ...]:
        return read_nodes(self._graph.raw_cuda_graph())

    def write_dot(self, path: Path) -> None:
        write_dot(self._graph.raw_cuda_graph(), path)


class CudaEvent(Event):
    """An event that is waited for asleep and polled awake."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def record(self) -> None:
        try:
            self._event.record(self._stream)
        except RuntimeError as error:
            raise fault("recording an event", error) from error

    def query(self) -> bool:
        try:
            passed: bool = self._event.query()  # type: ignore[no-untyped-call]
            return passed
        except RuntimeError as error:
            raise fault("running a graph", error) from error

    def synchronize(self) -> None:
        with faults("running a graph"):
            self._event.synchronize()

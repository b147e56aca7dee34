"""A captured graph and its event with a stopwatch, and a launch of the same graph past torch."""

import importlib
import time
from pathlib import Path

from narsil_graph.engine.cuda_device import CudaGraph
from narsil_graph.engine.device import Event, Graph
from narsil_graph.engine.graph_nodes import GraphNode
from narsil_graph.engine.launcher import DeviceFault


class TimedGraph(Graph):
    """``taken_ns`` is what the last replay call took on the host."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.taken_ns = 0

    def replay(self) -> None:
        begin = time.perf_counter_ns()
        self._graph.replay()
        self.taken_ns = time.perf_counter_ns() - begin

    def nodes(self) -> tuple[GraphNode, ...]:
        return self._graph.nodes()

    def write_dot(self, path: Path) -> None:
        self._graph.write_dot(path)


class TimedEvent(Event):
    """``record_ns`` is what the last record took, ``polls`` how often it was asked since somebody set that to 0."""

    def __init__(self, event: Event) -> None:
        self._event = event
        self.record_ns = self.polls = 0

    def record(self) -> None:
        begin = time.perf_counter_ns()
        self._event.record()
        self.record_ns = time.perf_counter_ns() - begin

    def query(self) -> bool:
        self.polls += 1
        return self._event.query()

    def synchronize(self) -> None:
        self._event.synchronize()


class BoundGraph(Graph):
    """The graph that torch captured, launched by cuda.bindings with handles made once."""

    def __init__(self, graph: Graph) -> None:
        assert isinstance(graph, CudaGraph)
        runtime = importlib.import_module("cuda.bindings.runtime")
        # torch's own objects; ``graph`` stays the owner of both.
        self._graph = graph
        self._executable = runtime.cudaGraphExec_t(init_value=graph._graph.raw_cuda_graph_exec())
        self._stream = runtime.cudaStream_t(init_value=graph._stream.cuda_stream)
        self._launch = runtime.cudaGraphLaunch

    def replay(self) -> None:
        (status,) = self._launch(self._executable, self._stream)
        if status:
            raise DeviceFault(f"cudaGraphLaunch says {status.name}")

    def nodes(self) -> tuple[GraphNode, ...]:
        return self._graph.nodes()

    def write_dot(self, path: Path) -> None:
        self._graph.write_dot(path)

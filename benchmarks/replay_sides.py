"""Parts of replay.py: a graph replay beside eager PyTorch and TorchScript, and where a launch's time goes."""

import time
from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np

from benchmarks.contenders import DROPPED_CALLS, SAME_MODEL
from benchmarks.device_clock import (
    GRAPH_PRECISIONS,
    Rig,
    Rows,
    Tables,
    fill,
    graph_slot,
    launch_to_ready_us,
    scored,
)
from benchmarks.machine import interval
from benchmarks.peers.torchscript_forward import TorchScriptForward
from benchmarks.timed_graph import BoundGraph, TimedEvent, TimedGraph
from narsil_graph.engine.cuda_device import CudaGraph
from narsil_graph.engine.cuda_graph import GraphSlot
from narsil_graph.engine.eager import EagerForward
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.forward import DTYPES
from narsil_graph.engine.graph_options import Completion, GraphOptions
from narsil_graph.engine.launcher import Launcher, Precision, Slot
from narsil_transport.buckets import Bucket
from narsil_transport.wire import InferRequest

REQUEST_ROWS = 100
BUCKETS = (100, 128)
GRAPH, EAGER, SCRIPT = "graph", "eager", "torchscript"
CALLS = 20
EVENTS_TABLE = "100 rows, copies included, by CUDA events around calls one after another"
WALL_TABLE = "100 rows, copies included, by the host's clock from launch to readable scores"
# What the server runs by default in the GPU benchmarks.
SERVED_PRECISION = Precision.BF16
Side = tuple[Launcher, Slot, Callable[[], object]]


def sides(rig: Rig) -> Tables:
    """100 rows in bucket 100 and in bucket 128, whose padding only the graph has to compute."""
    events: Rows = []
    wall: Rows = []
    for precision in GRAPH_PRECISIONS:
        engine = rig.captured(BUCKETS, GraphOptions(precision=precision))
        exact_fit = Bucket(REQUEST_ROWS, REQUEST_ROWS * len(rig.model.spec.sparse_features))
        where = rig.device.torch_device
        peers: dict[str, Launcher] = {
            EAGER: EagerForward(rig.model, where, precision),
            SCRIPT: TorchScriptForward(rig.model, where, DTYPES[precision]),
        }
        slots = {name: launcher.capture(exact_fit)[0] for name, launcher in peers.items()}
        for bucket in BUCKETS:
            slot = graph_slot(engine, bucket)
            compared: dict[str, Side] = {GRAPH: (engine.launcher, slot, slot.one_id.replay)}
            compared |= {name: (peers[name], peer, partial(peers[name].launch, peer)) for name, peer in slots.items()}
            events_us, wall_us = _rounds(rig, compared)
            place: dict[str, object] = {"precision": precision.value, "bucket": bucket}
            events.append(place | _side_row(events_us))
            wall.append(place | _side_row(wall_us))
    return {EVENTS_TABLE: events, WALL_TABLE: wall}


def _rounds(rig: Rig, compared: dict[str, Side]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """(by events, by wall clock): medians of bursts, round by round, each round beginning one side further."""
    request = rig.request(REQUEST_ROWS)
    scores = {name: scored(launcher, slot, request) for name, (launcher, slot, _) in compared.items()}
    for name, found in scores.items():
        if not np.abs(found - scores[EAGER]).max() < SAME_MODEL:
            raise ValueError(f"{name} does not compute what {EAGER} computes")
    events_us: dict[str, list[float]] = defaultdict(list)
    wall_us: dict[str, list[float]] = defaultdict(list)
    order, calls = deque(compared), rig.count(CALLS, DROPPED_CALLS + 1)
    for _ in range(rig.count(30, 2)):
        for name in order:
            launcher, slot, run = compared[name]
            taken = [launch_to_ready_us(launcher, slot) for _ in range(calls)]
            wall_us[name].append(float(np.median(taken[DROPPED_CALLS:])))
            events_us[name].append(rig.clock.us(run, calls))
        order.rotate(-1)
    return events_us, wall_us


def _side_row(taken_us: dict[str, list[float]]) -> dict[str, object]:
    row: dict[str, object] = {f"{name} us": interval(taken_us[name])[0] for name in (GRAPH, EAGER, SCRIPT)}
    for name in (EAGER, SCRIPT):
        ratio, low, high = interval([a / b for a, b in zip(taken_us[name], taken_us[GRAPH], strict=True)])
        row |= {f"{name}/graph": ratio, f"{name} low95": low, f"{name} high95": high}
    return row


def breakdown(rig: Rig) -> Tables:
    """Fill, launch, wait, read of 100 rows in bucket 100, for each way to launch and each to see the end."""
    engines = {
        completion: rig.captured((REQUEST_ROWS,), GraphOptions(precision=SERVED_PRECISION, completion=completion))
        for completion in Completion
    }
    ways: dict[tuple[str, str], Stepped] = {}
    for launch, finish in product(("torch", "cuda.bindings"), ("event", "sequence", "blocking")):
        engine = engines[Completion.SEQUENCE if finish == "sequence" else Completion.EVENT]
        slot = graph_slot(engine, REQUEST_ROWS)
        if launch == "torch" or isinstance(slot.one_id, CudaGraph):
            ways[launch, finish] = Stepped(engine, slot, bound=launch != "torch", blocking=finish == "blocking")
    request = rig.request(REQUEST_ROWS)
    for _ in range(rig.count(20, 1)):
        for stepped in ways.values():
            stepped.run(request, rig.count(100, 3))
    rows: Rows = [{"launch": launch, "completion": finish} | way.row() for (launch, finish), way in ways.items()]
    return {f"one launch of 100 rows at a time, {SERVED_PRECISION.value}: us, medians": rows}


class Stepped:
    """Fill, launch, wait and read of one slot, timed one by one."""

    def __init__(self, engine: Engine, slot: GraphSlot, *, bound: bool, blocking: bool) -> None:
        self._engine = engine
        self._slot = slot
        self._graph, self._event = slot.one_id, slot.event
        self._timed = TimedGraph(BoundGraph(self._graph) if bound else self._graph)
        self._timed_event = TimedEvent(slot.event)
        self._blocking = blocking
        self._taken: dict[str, list[float]] = defaultdict(list)

    def run(self, request: InferRequest, count: int) -> None:
        slot = self._slot
        slot.one_id, slot.event = self._timed, self._timed_event
        try:
            for number in range(count + DROPPED_CALLS):
                taken = self._once(request)
                if number >= DROPPED_CALLS:
                    for name, value in taken.items():
                        self._taken[name].append(value)
        finally:
            slot.one_id, slot.event = self._graph, self._event

    def _once(self, request: InferRequest) -> dict[str, float]:
        launcher, slot = self._engine.launcher, self._slot
        self._timed_event.polls = 0
        begin = time.perf_counter_ns()
        fill(slot, request)
        filled = time.perf_counter_ns()
        launcher.launch(slot)
        launched = time.perf_counter_ns()
        if self._blocking:
            slot.event.synchronize()
        else:
            launcher.wait(slot)
        ready = time.perf_counter_ns()
        launcher.scores(slot).copy()
        end = time.perf_counter_ns()
        host_ns = (launched - begin) + (end - ready)
        times = {"fill": filled - begin, "replay call": self._timed.taken_ns, "record": self._timed_event.record_ns,
                 "launch call": launched - filled, "wait": ready - launched, "read": end - ready,
                 "host work": host_ns, "total": end - begin}  # fmt: skip
        return {name: ns / 1e3 for name, ns in times.items()} | {"queries": self._timed_event.polls}

    def row(self) -> dict[str, object]:
        row: dict[str, object] = {name: float(np.median(values)) for name, values in self._taken.items()}
        return row | {"total p99": float(np.quantile(self._taken["total"], 0.99))}

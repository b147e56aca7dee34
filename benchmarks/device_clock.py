"""Device time, wall time, and the bench that the parts of replay.py work on: a model, a device and its clock."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import SEED
from narsil_graph.engine.cuda_graph import CudaGraphs, GraphSlot
from narsil_graph.engine.device import Device, Graph, Program
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.graph_options import GraphOptions
from narsil_graph.engine.launcher import Launcher, Precision, Slot
from narsil_graph.engine.synthetic import one_hot_request
from narsil_graph.model.weights import Model
from narsil_transport.buckets import BucketLadder
from narsil_transport.wire import InferRequest

GRAPH_PRECISIONS = (Precision.F32, Precision.TF32, Precision.BF16, Precision.FP16)
Rows = list[dict[str, object]]
Tables = dict[str, Rows]


class Clock(Protocol):
    """How long the device takes."""

    def us(self, run: Callable[[], object], count: int) -> float:
        """Device microseconds of one ``run`` among ``count``, which leave the stream that they use the current one."""
        ...


class EventClock(Clock):
    """CUDA events around the runs."""

    def __init__(self) -> None:
        self._begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def us(self, run: Callable[[], object], count: int) -> float:
        run()
        stream = torch.cuda.current_stream()
        stream.synchronize()
        self._begin.record(stream)
        for _ in range(count):
            run()
        self._end.record(stream)
        self._end.synchronize()
        taken_ms: float = self._begin.elapsed_time(self._end)
        return taken_ms * 1e3 / count


class WallClock(Clock):
    """For a device that has no events: ``finish`` returns when everything has run."""

    def __init__(self, finish: Callable[[], object]) -> None:
        self._finish = finish

    def us(self, run: Callable[[], object], count: int) -> float:
        begin = time.perf_counter_ns()
        for _ in range(count):
            run()
        self._finish()
        return (time.perf_counter_ns() - begin) / 1e3 / count


@dataclass(frozen=True, slots=True)
class Rig:
    """What is measured. ``quick`` runs show that the code works and nothing else."""

    model: Model
    path: Path
    device: Device
    clock: Clock
    quick: bool

    def count(self, usual: int, quick: int) -> int:
        return quick if self.quick else usual

    def engine(self, rows: Sequence[int], options: GraphOptions, *, ids_per_feature: int = 1) -> Engine:
        """Nothing captured yet."""
        ids_per_row = ids_per_feature * len(self.model.spec.sparse_features)
        ladder = BucketLadder.from_rows(rows, ids_per_row=ids_per_row)
        return Engine(CudaGraphs(self.model, self.device, options), ladder)

    def captured(self, rows: Sequence[int], options: GraphOptions) -> Engine:
        engine = self.engine(rows, options)
        engine.capture_all(lambda bucket, captured: None)
        return engine

    def request(self, rows: int, *, seed: int = SEED) -> InferRequest:
        return one_hot_request(self.model.spec, rows, np.random.default_rng(seed))


class Captures:
    """Programs captured on one lane, kept as long as the lane is: its graphs share a pool."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._lane = rig.device.open_lane()
        self._kept: list[Graph] = []

    def us(self, program: Program, *, repeats: int, replays: int) -> float:
        """Device microseconds of one ``program`` among ``repeats`` in one graph."""

        def repeated() -> None:
            for _ in range(repeats):
                program()

        with torch.inference_mode():
            self._lane.warm_up(program)
            graph = self._lane.capture(repeated)
        self._kept.append(graph)
        return self._rig.clock.us(graph.replay, replays) / repeats


def graph_slot(engine: Engine, rows: int) -> GraphSlot:
    """The first slot of the bucket of so many rows."""
    slot = next(captured.slots[0] for bucket, captured in engine.captured.items() if bucket.rows == rows)
    assert isinstance(slot, GraphSlot)
    return slot


def fill(slot: Slot, request: InferRequest) -> None:
    slot.arena.fill([(request, 0, request.rows)])


def launch_to_ready_us(launcher: Launcher, slot: Slot) -> float:
    """One call's wall time, from the launch of what lies in the arena to scores that can be read."""
    begin = time.perf_counter_ns()
    launcher.launch(slot)
    launcher.wait(slot)
    return (time.perf_counter_ns() - begin) / 1e3


def scored(launcher: Launcher, slot: Slot, request: InferRequest) -> NDArray[np.float32]:
    fill(slot, request)
    launch_to_ready_us(launcher, slot)
    return launcher.scores(slot)[: request.rows].copy()

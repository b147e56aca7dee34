"""Parts of replay.py: what a replay costs by its rows and against what limits, what a capture costs, kernels, lanes."""

import gc
import time
from collections import defaultdict, deque

import numpy as np
import torch

from benchmarks.device_clock import Captures, Rig, Rows, Tables, fill, graph_slot, launch_to_ready_us, scored
from benchmarks.device_floors import Floors, measure_floors
from benchmarks.machine import interval
from narsil_graph.commands import BUCKETS
from narsil_graph.engine.eager import ROW_ALIGNMENT_BYTES
from narsil_graph.engine.engine import Engine, Flight
from narsil_graph.engine.forward import DTYPES
from narsil_graph.engine.graph_options import GraphOptions, Kernels
from narsil_graph.engine.launcher import Footprint, Precision
from narsil_graph.errors import Failure
from narsil_graph.model.spec import ModelSpec
from narsil_transport.buckets import parse_rows

CURVE_ROWS = tuple(2**power for power in range(13))
CURVE_PRECISIONS = (Precision.F32, Precision.BF16)
KERNEL_ROWS = (1, 100, 1024, 4096)
LANES = (1, 2, 4)
REQUEST_ROWS, LARGE_ROWS = 100, 1600
QUICK_ROWS = (1, 4, 8)
MIB = 2**20


def curve(rig: Rig) -> Tables:
    """Every power of two to 4096 rows, one id per feature; then the floors that it is held against."""
    floors = measure_floors(rig)
    rows: Rows = []
    for precision in CURVE_PRECISIONS:
        engine = rig.captured(QUICK_ROWS if rig.quick else CURVE_ROWS, GraphOptions(precision=precision))
        replay_us = {bucket.rows: _replay(rig, engine, bucket.rows) for bucket in engine.ladder.buckets}
        fixed_us = replay_us[engine.ladder.buckets[0].rows][0]
        for count, (events_us, wall_us) in replay_us.items():
            slot = graph_slot(engine, count)
            copied = slot.arena.layout.prefix_bytes(count * slot.arena.layout.bags), (count + 1) * 4
            row = {"precision": precision.value, "rows": count, "us": events_us, "wall us": wall_us,
                   "samples/s": count / events_us * 1e6, "nodes": slot.nodes}  # fmt: skip
            rows.append(row | _limits(rig.model.spec, floors, precision, count, copied, events_us, fixed_us))
    return {"replay by rows, copies included, against the floors": rows, "floors of this machine": floors.rows()}


def _replay(rig: Rig, engine: Engine, rows: int) -> tuple[float, float]:
    """Medians (by events, by wall clock) of a replay of a full bucket."""
    slot = graph_slot(engine, rows)
    scored(engine.launcher, slot, rig.request(rows))
    rounds = range(rig.count(15, 1))
    events_us = [rig.clock.us(slot.one_id.replay, rig.count(50, 2)) for _ in rounds]
    wall_us = [launch_to_ready_us(engine.launcher, slot) for _ in range(rig.count(200, 3))]
    return float(np.median(events_us)), float(np.median(wall_us))


def _limits(
    spec: ModelSpec,
    floors: Floors,
    precision: Precision,
    rows: int,
    copied_bytes: tuple[int, int],
    taken_us: float,
    fixed_us: float,
) -> dict[str, object]:
    """Bytes, operations, the least time that each could take, its share of the replay, and the largest of all shares.

    ``fixed`` is the replay of the smallest bucket: what a launch takes that has next to nothing to do.
    """
    into_bytes, back_bytes = copied_bytes
    element_bytes = DTYPES[precision].itemsize
    shapes = (*spec.dense_shapes(), *spec.over_shapes())
    weight_bytes = sum(out * (width + 1) for out, width in shapes) * element_bytes
    row_bytes = rows * sum(_stored_bytes(spec, number) for number in range(len(spec.sparse_features)))
    products = 2 * sum(out * width for out, width in shapes) + 2 * spec.vectors**2 * spec.dim
    copy_us = into_bytes / floors.h2d_bytes_per_us + back_bytes / floors.d2h_bytes_per_us
    bytes_us = copy_us + (weight_bytes + row_bytes) / floors.device_bytes_per_us
    operations_us = rows * products / floors.operations_per_us[precision]
    shares = {"fixed": fixed_us, "bytes": bytes_us, "FLOPs": operations_us}
    return {"copied KiB": (into_bytes + back_bytes) / 1024, "table KiB": row_bytes / 1024,
            "weight KiB": weight_bytes / 1024, "MFLOP": rows * products / 1e6,
            "of bytes floor": bytes_us / taken_us, "of FLOPs floor": operations_us / taken_us,
            "limited by": max(shares, key=shares.__getitem__)}  # fmt: skip


def _stored_bytes(spec: ModelSpec, feature: int) -> int:
    alignment = ROW_ALIGNMENT_BYTES["cuda"]
    return -(-spec.feature_tables[feature].format.row_bytes(spec.dim) // alignment) * alignment


class MappedHost:
    """Page-locked memory as torch's CUDA tensors see device memory: they share one address space."""

    def __init__(self, pinned: torch.Tensor) -> None:
        self._pinned = pinned
        self.__cuda_array_interface__ = {
            "data": (pinned.data_ptr(), False), "shape": tuple(pinned.shape), "typestr": "<i4", "version": 3,
        }  # fmt: skip


def zero_copy(rig: Rig) -> Tables:
    """An input of so many rows, read by one kernel: after a copy node, or where it lies in page-locked host memory."""
    features, width = len(rig.model.spec.sparse_features), len(rig.model.spec.dense_features)
    captures = Captures(rig)
    rows: Rows = []
    for count in reversed(KERNEL_ROWS):
        words = 4 + count * (features + width)
        pinned = rig.device.pinned(words * 4).view(torch.int32)
        mapped = torch.as_tensor(MappedHost(pinned), device=rig.device.torch_device)
        if mapped.data_ptr() != pinned.data_ptr():
            raise ValueError("torch has copied the host memory instead of reading it in place")
        resident, out = (rig.device.place(torch.zeros(words, dtype=torch.int32)) for _ in range(2))

        def by_copy(to: torch.Tensor = resident, source: torch.Tensor = pinned, out: torch.Tensor = out) -> None:
            to.copy_(source, non_blocking=True)
            torch.add(to, 1, out=out)

        def in_place(source: torch.Tensor = mapped, out: torch.Tensor = out) -> None:
            torch.add(source, 1, out=out)

        repeats, replays = rig.count(20, 2), rig.count(20, 1)
        copied_us, mapped_us = (captures.us(way, repeats=repeats, replays=replays) for way in (by_copy, in_place))
        rows.insert(0, {"rows": count, "KiB": words / 256, "copy node + kernel us": copied_us,
                        "kernel on host memory us": mapped_us, "copy/host": copied_us / mapped_us})  # fmt: skip
    return {"input into one kernel: copy node, or mapped host memory": rows}


def capture(rig: Rig) -> Tables:
    """The default ladder with two slots, largest bucket first, as serving captures it."""
    ladder = QUICK_ROWS if rig.quick else parse_rows(BUCKETS["cuda"])
    rows = [row for precision in CURVE_PRECISIONS for row in _captures(rig, precision, ladder)]
    return {"capture of a bucket (2 slots, 2 graphs each), in the order of capture": rows}


def _captures(rig: Rig, precision: Precision, ladder: tuple[int, ...]) -> Rows:
    """What preparing takes and holds, then what each bucket adds."""
    engine = rig.engine(ladder, GraphOptions(precision=precision), ids_per_feature=4)
    before, begin = returned(rig), time.perf_counter()
    engine.prepare()
    seconds = time.perf_counter() - begin
    # A capture begins with this, and must not be credited with what the warm-up left.
    after = returned(rig)
    rows: Rows = [{"precision": precision.value, "rows": "prepare", "ms": seconds * 1e3,
                   "device MiB": (after.device_bytes - before.device_bytes) / MIB,
                   "pool MiB": (after.pool_bytes - before.pool_bytes) / MIB, "nodes": 0}]  # fmt: skip
    for bucket in reversed(engine.ladder.buckets):
        pool_bytes = rig.device.footprint().pool_bytes
        captured = engine.capture(bucket)
        rows.append({"precision": precision.value, "rows": bucket.rows, "ms": captured.seconds * 1e3,
                     "device MiB": captured.device_bytes / MIB,
                     "pool MiB": (rig.device.footprint().pool_bytes - pool_bytes) / MIB,
                     "nodes": captured.slots[0].nodes})  # fmt: skip
    return rows


def returned(rig: Rig) -> Footprint:
    """What is held once the allocator has given back what it only keeps for later."""
    gc.collect()
    torch.cuda.empty_cache()
    return rig.device.footprint()


def kernels(rig: Rig) -> Tables:
    """FBGEMM's lookup and torch's products beside the fused Triton kernel, in turn, at four sizes."""
    rows: Rows = []
    for precision in CURVE_PRECISIONS:
        engines: dict[str, Engine] = {}
        for family in Kernels:
            try:
                options = GraphOptions(precision=precision, kernels=family)
                engines[family.value] = rig.captured(QUICK_ROWS if rig.quick else KERNEL_ROWS, options)
            except Failure as unavailable:
                print(f"# {family.value} is left out: {unavailable}")
        for bucket in next(iter(engines.values())).ladder.buckets:
            taken: dict[str, list[float]] = defaultdict(list)
            for name in list(engines) * rig.count(15, 2):
                slot = graph_slot(engines[name], bucket.rows)
                fill(slot, rig.request(bucket.rows))
                taken[name].append(rig.clock.us(slot.one_id.replay, rig.count(50, 2)))
            fbgemm, triton = taken[Kernels.FBGEMM.value], taken.get(Kernels.TRITON.value, [])
            row: dict[str, object] = {
                "precision": precision.value,
                "rows": bucket.rows,
                "fbgemm us": interval(fbgemm)[0],
            }
            if triton:
                ratio, low, high = interval([a / b for a, b in zip(fbgemm, triton, strict=True)])
                row |= {"triton us": interval(triton)[0], "fbgemm/triton": ratio, "low95": low, "high95": high}
            rows.append(row)
    return {"one replay by kernels: us by events": rows}


def lanes(rig: Rig) -> Tables:
    """Batches of 100-row requests with every lane's slots kept in flight: filling, launching and reading included."""
    options = {count: GraphOptions(precision=Precision.BF16, lanes=count) for count in LANES}
    sizes = (REQUEST_ROWS, REQUEST_ROWS * 2) if rig.quick else (REQUEST_ROWS, LARGE_ROWS)
    engines = {count: rig.captured(sizes, chosen) for count, chosen in options.items()}
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    for _ in range(rig.count(7, 1)):
        for size in sizes:
            for count, engine in engines.items():
                found[size, count].append(_samples_per_s(rig, engine, size))
    rows: Rows = []
    for (size, count), values in found.items():
        middle, low, high = interval(values)
        rows.append({"batch": size, "lanes": count, "samples/s": middle, "low95": low, "high95": high})
    return {"batches of 100-row requests, 2 slots a lane, always in flight, bf16": rows}


def _samples_per_s(rig: Rig, engine: Engine, rows: int) -> float:
    bucket = next(bucket for bucket in engine.ladder.buckets if bucket.rows == rows)
    requests = [rig.request(REQUEST_ROWS, seed=seed) for seed in range(rows // REQUEST_ROWS)]
    pieces = [(request, 0, request.rows) for request in requests]
    flights: deque[Flight] = deque()
    landed, begin = 0, time.perf_counter()
    until = begin + rig.count(300, 5) / 1e3
    while time.perf_counter() < until:
        while engine.room:
            flights.append(engine.submit(bucket, pieces))
        if engine.landed(flights[0]):
            flight = flights.popleft()
            engine.read(flight)
            engine.release(flight)
            landed += 1
    seconds = time.perf_counter() - begin
    for flight in flights:
        engine.finish(flight)
    return landed * rows / seconds

"""The forwards that are compared, each bound to one bucket, and the interleaved timing of them."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.machine import SEED
from benchmarks.peers.torchscript_forward import torchscript_forward
from narsil_graph.engine.arena import Arena
from narsil_graph.engine.cpu_int8 import Int8Unavailable
from narsil_graph.engine.cpu_plan import CpuPlan
from narsil_graph.engine.eager import HOST, ROW_ALIGNMENT_BYTES, EagerForward, key_major
from narsil_graph.engine.forward import flat_rows, table_batched_lookup
from narsil_graph.engine.launcher import Launcher, Precision, Slot
from narsil_graph.engine.synthetic import one_hot_request
from narsil_graph.model.spec import SpecError
from narsil_graph.model.weights import Model
from narsil_transport.buckets import Bucket
from narsil_transport.wire import InferRequest

CONTENDERS = ("eager", "torchscript", "onnxruntime", "f32", "bf16", "int8")
# The first calls of a burst run on caches that another contender has filled.
DROPPED_CALLS = 3
# Requests of random ids: the lookups of one are not in the cache when it comes round again.
POOL = 64
# TorchScript compiles in the first two calls of a shape.
WARM_CALLS = 5
# int8 scores differ from float32 ones by less (RESULTS.md): anything beyond is not the same model.
SAME_MODEL = 0.2
DenseForward = Callable[[Tensor, Tensor], NDArray[np.float32]]
# Round medians in microseconds.
Rounds = dict[str, list[float]]


class PeerForward(Launcher):
    """A peer's dense part, from a filled arena by the eager forward's own reorder and FBGEMM lookup."""

    def __init__(self, model: Model, forward: DenseForward) -> None:
        self._features = len(model.spec.sparse_features)
        self._dense_width = len(model.spec.dense_features)
        alignment_bytes = ROW_ALIGNMENT_BYTES[HOST.type]
        stored, begins = flat_rows(model, alignment_bytes)
        self._lookup = table_batched_lookup(model.spec, stored, begins, torch.float32, alignment_bytes)
        self._forward = forward

    def capture(self, bucket: Bucket) -> tuple[Slot, ...]:
        no_bases = np.zeros(self._features, np.int32)
        arena = Arena(bucket, dense_width=self._dense_width, id_bases=no_bases, lead=0)
        scores = np.zeros(bucket.rows, np.float32)
        return (Slot(arena=arena, program=partial(self._score, arena, scores), scores=scores, kernels="peer"),)

    def _score(self, arena: Arena, scores: NDArray[np.float32]) -> None:
        pooled = self._lookup(*key_major(arena, self._features))
        scores[: arena.rows] = self._forward(torch.from_numpy(arena.dense[: arena.rows]), pooled)


class Contest:
    """Those of ``names`` that run here, prepared once; a line says why one does not."""

    def __init__(self, model: Model, names: Sequence[str], threads: int) -> None:
        self._spec = model.spec
        self._launchers: dict[str, Launcher] = {}
        for name in names:
            try:
                self._launchers[name] = _contender(model, name, threads)
            except (ModuleNotFoundError, SpecError, Int8Unavailable) as error:
                print(f"# {name} is left out: {error}")

    def measure(self, rows: int, *, rounds: int, burst: int) -> tuple[Rounds, dict[str, str]]:
        """Each round runs a burst of every contender, starting one further each time, on requests that rotate.

        The second result says what each is made of. Laying out the request is not timed: it is the same work for all.
        """
        bucket = Bucket(rows, rows * len(self._spec.sparse_features))
        rng = np.random.default_rng(SEED)
        requests = [one_hot_request(self._spec, rows, rng) for _ in range(POOL)]
        slots = {name: launcher.capture(bucket)[0] for name, launcher in self._launchers.items()}
        self._check(slots, requests[0])
        order = deque(slots)
        pool = cycle(requests)
        found: Rounds = {name: [] for name in slots}
        for _ in range(rounds):
            for name in order:
                times_ns = [_call_ns(self._launchers[name], slots[name], next(pool)) for _ in range(burst)]
                found[name].append(float(np.median(times_ns[DROPPED_CALLS:])) / 1e3)
            order.rotate(-1)
        return found, {name: slot.kernels for name, slot in slots.items()}

    def _check(self, slots: Mapping[str, Slot], request: InferRequest) -> None:
        """A forward that is fast because it is wrong must not be measured."""
        first = next(iter(slots))
        for name, slot in slots.items():
            for _ in range(WARM_CALLS):
                _call_ns(self._launchers[name], slot, request)
            if not np.abs(slot.scores - slots[first].scores).max() < SAME_MODEL:
                raise ValueError(f"{name} does not compute what {first} computes")


def _call_ns(launcher: Launcher, slot: Slot, request: InferRequest) -> int:
    slot.arena.fill([(request, 0, request.rows)])
    begin = time.perf_counter_ns()
    launcher.launch(slot)
    return time.perf_counter_ns() - begin


def _contender(model: Model, name: str, threads: int) -> Launcher:
    if name == "eager":
        return EagerForward(model)
    if name == "torchscript":
        return PeerForward(model, torchscript_forward(model))
    if name == "onnxruntime":
        # Optional: pip install 'narsil-graph[peers]'.
        from benchmarks.peers.onnx_forward import onnx_forward

        return PeerForward(model, onnx_forward(model, threads=threads))
    plan = CpuPlan(model, Precision(name))
    plan.capture(Bucket(1, len(model.spec.sparse_features)))
    return plan

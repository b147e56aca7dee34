"""One CUDA graph launch per batch: copy in, reorder, lookup, both archs, interaction, copy out."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narsil_graph.engine.arena import Arena
from narsil_graph.engine.device import Device, Event, Graph, Lane
from narsil_graph.engine.eager import ROW_ALIGNMENT_BYTES
from narsil_graph.engine.forward import DTYPES, Forward, means_among_sums
from narsil_graph.engine.graph_nodes import (
    FBGEMM_LOOKUP_KERNEL,
    FBGEMM_WEIGHTED_LOOKUP_KERNEL,
    histogram,
    node_problem,
)
from narsil_graph.engine.graph_options import Completion, GraphOptions, Kernels
from narsil_graph.engine.launcher import DeviceFault, Finding, Footprint, Launcher, Precision, Slot
from narsil_graph.engine.reorder import Reorder
from narsil_graph.engine.triton_interaction import KERNEL_NAME, TritonInteraction
from narsil_graph.model.weights import Model
from narsil_transport.buckets import Bucket

# A wait polls this long before it sleeps: a replay takes some tens of microseconds, waking from a sleep as long again.
SPIN_NS = 1_000_000
# With the sequence word, polls between two looks at the event, which alone tells of a fault.
POLLS_PER_QUERY = 64
# int32 holds it, and a slot that launches 10,000 times a second comes round after two days.
SEQUENCE_MASK = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Memory:
    """A slot's static memory: the arena's bytes on both sides, and the scores' with the echoed sequence word."""

    arena: Arena
    pinned: Tensor
    resident: Tensor
    pinned_scores: Tensor

    def section(self, begin_bytes: int, count: int, dtype: torch.dtype) -> Tensor:
        """``count`` four-byte elements of the device's copy of the arena."""
        return self.resident[begin_bytes : begin_bytes + count * 4].view(dtype)


@dataclass(slots=True, kw_only=True)
class GraphSlot(Slot):
    """Two graphs over the same memory: one for batches with one id in every bag, one for any bags."""

    one_id: Graph
    bags: Graph
    event: Event
    echo: NDArray[np.int32]
    sequence: int = 0
    polls: int = 0


class CudaGraphs(Launcher):
    """Launches replay a captured graph; the host only fills the arena and reads the scores."""

    def __init__(self, model: Model, device: Device, options: GraphOptions) -> None:
        self.slots_per_lane = options.slots_per_lane
        self._model = model
        self._device = device
        self._options = options
        self._lanes: list[Lane] = []
        self._memories: dict[Bucket, list[list[Memory]]] = {}
        self._reorders: dict[Bucket, Reorder] = {}

    def prepare(self, buckets: Sequence[Bucket]) -> None:
        """Place the weights, once; allocate every arena, then run each shape on each lane, largest first.

        All page-locked memory is made here: none may be made or freed during a capture. The warm-up makes what
        libraries make at their first call, in the order and on the streams of the captures to come.
        """
        spec, device = self._model.spec, self._device
        if any(bucket.ids < bucket.rows * len(spec.sparse_features) for bucket in buckets):
            raise ValueError("want buckets with room for one id in every bag")
        self._settle_tf32()
        if not self._lanes:
            self._place_weights()
        largest_first = sorted(buckets, key=lambda bucket: bucket.rows, reverse=True)
        for bucket in largest_first:
            self._reorders[bucket] = Reorder(spec, bucket, device.place)
            self._memories[bucket] = [[self._allocate(bucket) for _ in range(self.slots_per_lane)] for _ in self._lanes]
        for number, lane in enumerate(self._lanes):
            for bucket in largest_first:
                for program in self._programs(self._memories[bucket][number][0]):
                    lane.warm_up(program)

    def _settle_tf32(self) -> None:
        """The process' only setting of it, and an engine of another precision may have captured since."""
        self._device.allow_tf32(self._options.precision is Precision.TF32)

    def _place_weights(self) -> None:
        device, options = self._device, self._options
        self._forward = Forward(
            self._model,
            place=device.place,
            dtype=DTYPES[options.precision],
            row_alignment_bytes=ROW_ALIGNMENT_BYTES["cuda"],
        )
        self._addresses = tuple(weight.data_ptr() for weight in self._forward.weights())
        self._interaction = self._fused_interaction() if options.kernels is Kernels.TRITON else None
        self._lanes = [device.open_lane() for _ in range(options.lanes)]

    def _fused_interaction(self) -> TritonInteraction:
        spec, forward = self._model.spec, self._forward
        begins = torch.tensor([forward.begins[table.name] for table in spec.feature_tables])
        return TritonInteraction(
            spec=spec,
            rows=forward.rows,
            begins=self._device.place(begins),
            row_bytes=forward.rows.numel() // sum(table.rows for table in spec.tables),
            dtype=forward.dtype,
            tf32=self._options.precision is Precision.TF32,
        )

    def _allocate(self, bucket: Bucket) -> Memory:
        spec, device = self._model.spec, self._device
        taken: list[Tensor] = []

        def pinned(size_bytes: int) -> NDArray[np.uint8]:
            taken.append(device.pinned(size_bytes))
            memory: NDArray[np.uint8] = taken[0].numpy()
            return memory

        arena = Arena(
            bucket,
            dense_width=len(spec.dense_features),
            id_bases=np.zeros(len(spec.sparse_features), np.int32),
            lead=0,
            allocate=pinned,
        )
        pinned_scores = device.pinned((bucket.rows + 1) * 4).view(torch.int32)
        return Memory(arena, taken[0], device.place(torch.zeros_like(taken[0])), pinned_scores)

    def capture(self, bucket: Bucket) -> tuple[Slot, ...]:
        """Record both graphs of every slot. The largest bucket comes first, so that its pool serves the others."""
        self._settle_tf32()
        return tuple(
            self._captured(memory, lane, number)
            for number, lane in enumerate(self._lanes)
            for memory in self._memories[bucket][number]
        )

    def _captured(self, memory: Memory, lane: Lane, number: int) -> GraphSlot:
        one_id, bags = (lane.capture(program) for program in self._programs(memory))
        nodes = one_id.nodes()
        words: NDArray[np.int32] = memory.pinned_scores.numpy()
        slot = GraphSlot(
            arena=memory.arena,
            program=one_id.replay,
            scores=words[:-1].view(np.float32),
            kernels=f"{self._options.precision.value} {self._options.kernels.value}: {histogram(nodes)}",
            nodes=len(nodes),
            lane=number,
            one_id=one_id,
            bags=bags,
            event=lane.event(),
            echo=words[-1:],
        )
        return slot

    def _programs(self, memory: Memory) -> tuple[Callable[[], object], Callable[[], object]]:
        return partial(self._one_id, memory), partial(self._bags, memory)

    @torch.inference_mode()
    def _one_id(self, memory: Memory) -> None:
        layout = memory.arena.layout
        ids = layout.rows * layout.bags
        self._copy_in(memory, layout.prefix_bytes(ids))
        dense, values = self._dense(memory), memory.section(layout.values_begin, ids, torch.int32)
        if self._interaction is not None:
            scores = self._forward.top(self._interaction(self._forward.bottom(dense), values, None))
        else:
            scores = self._forward(dense, *self._reorders[memory.arena.bucket].one_id(values), None)
        self._copy_out(memory, scores)

    @torch.inference_mode()
    def _bags(self, memory: Memory) -> None:
        layout = memory.arena.layout
        self._copy_in(memory, layout.size_bytes)
        dense, values = self._dense(memory), memory.section(layout.values_begin, layout.ids, torch.int32)
        offsets = memory.section(layout.offsets_begin, layout.rows * layout.bags + 1, torch.int32)
        if self._interaction is not None:
            scores = self._forward.top(self._interaction(self._forward.bottom(dense), values, offsets))
        else:
            scores = self._forward(dense, *self._reorders[memory.arena.bucket].bags(values, offsets))
        self._copy_out(memory, scores)

    def _copy_in(self, memory: Memory, size_bytes: int) -> None:
        memory.resident[:size_bytes].copy_(memory.pinned[:size_bytes], non_blocking=True)

    def _dense(self, memory: Memory) -> Tensor:
        layout = memory.arena.layout
        count = layout.rows * layout.dense_width
        return memory.section(layout.dense_begin, count, torch.float32).view(layout.rows, layout.dense_width)

    def _copy_out(self, memory: Memory, scores: Tensor) -> None:
        sequence = memory.section(0, 1, torch.int32)
        # As integers: the sequence word is no float, and one copy carries both.
        memory.pinned_scores.copy_(torch.cat([scores.view(torch.int32), sequence]), non_blocking=True)

    def launch(self, slot: Slot) -> None:
        """One replay and one mark behind it."""
        assert isinstance(slot, GraphSlot)
        slot.sequence = (slot.sequence + 1) & SEQUENCE_MASK
        slot.polls = 0
        slot.arena.header[0] = slot.sequence
        (slot.one_id if slot.arena.one_hot else slot.bags).replay()
        slot.event.record()

    def ready(self, slot: Slot) -> bool:
        assert isinstance(slot, GraphSlot)
        if self._options.completion is Completion.SEQUENCE and slot.echo[0] != slot.sequence:
            slot.polls += 1
            if slot.polls % POLLS_PER_QUERY:
                return False
        # The word may arrive before the scores beside it: only the event promises both.
        return slot.event.query()

    def wait(self, slot: Slot) -> None:
        """Poll for a while, then sleep."""
        assert isinstance(slot, GraphSlot)
        until = time.perf_counter_ns() + SPIN_NS
        while not self.ready(slot):
            if time.perf_counter_ns() > until:
                slot.event.synchronize()
                return

    def scores(self, slot: Slot) -> NDArray[np.float32]:
        assert isinstance(slot, GraphSlot)
        if slot.echo[0] != slot.sequence:
            raise DeviceFault(
                f"bucket {slot.arena.bucket.rows} came back with sequence word {slot.echo[0]} for {slot.sequence}: "
                "its graph did not copy this launch's input in and its scores out"
            )
        return slot.scores

    def examine(self, slot: Slot) -> Iterator[Finding]:
        assert isinstance(slot, GraphSlot)
        yield Finding("nodes", self._node_problem(slot))
        addresses = tuple(weight.data_ptr() for weight in self._forward.weights())
        moved = sum(now != then for now, then in zip(addresses, self._addresses, strict=True))
        yield Finding(
            "weights",
            f"{moved} weight tensors have moved since capture and the graph reads the old ones: update weights in "
            "place, or capture again"
            if moved
            else None,
        )

    def _node_problem(self, slot: GraphSlot) -> str | None:
        layout, spec = slot.arena.layout, self._model.spec
        fused = self._options.kernels is Kernels.TRITON
        lookups = 1 if fused else len(self._model.rows)
        # Bags of a model that mixes poolings are weighted.
        bags_lookup = FBGEMM_LOOKUP_KERNEL if means_among_sums(spec) is None else FBGEMM_WEIGHTED_LOOKUP_KERNEL
        for kind, graph, lookup, copied in (
            ("one id", slot.one_id, FBGEMM_LOOKUP_KERNEL, layout.prefix_bytes(layout.rows * layout.bags)),
            ("bags", slot.bags, bags_lookup, layout.size_bytes),
        ):
            problem = node_problem(
                graph.nodes(),
                lookup_name=KERNEL_NAME if fused else lookup,
                lookups=lookups,
                copied_bytes=(copied, (layout.rows + 1) * 4),
                kernels_min=len(spec.dense_arch) + len(spec.over_arch) + lookups,
            )
            if problem is not None:
                return f"{kind}: {problem}"
        return None

    def footprint(self) -> Footprint:
        return self._device.footprint()

"""What the CUDA graphs of a ladder need in device memory, worked out before anything is allocated.

The bound rests on torch's caching allocator (constants of c10/core/AllocatorConfig.h, the same in torch 2.11 and 2.13):
a tensor is rounded up to 512 bytes; up to 1 MiB it is cut from a segment of 2 MiB, below 10 MiB from one of 20 MiB
(and not split where 1 MiB or less would be left), and from there on it has a segment of its own, rounded up to 2 MiB.
What the driver keeps for a graph and for the CUDA context is not in it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from narsil_graph.engine.arena import ArenaLayout
from narsil_graph.model.spec import ModelSpec
from narsil_transport.buckets import Bucket, BucketLadder

MIB = 2**20
BLOCK_BYTES = 512
SMALL_BYTES, SMALL_SEGMENT_BYTES = MIB, 2 * MIB
MIDDLE_BYTES, MIDDLE_SEGMENT_BYTES = 10 * MIB, 20 * MIB
OWN_SEGMENT_STEP_BYTES = 2 * MIB
ROW_ALIGNMENT_BYTES = 16
# torch's cuBLAS workspace on sm_90, one per thread and stream, so one per lane; it is 8.1 MiB on older devices.
WORKSPACE_BYTES = 32 * MIB


@dataclass(frozen=True, slots=True)
class Segments:
    """The most that tensors make the allocator reserve: by segments of 2 MiB, of 20 MiB, and of their own."""

    small_bytes: int = 0
    middle_bytes: int = 0
    own_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.small_bytes + self.middle_bytes + self.own_bytes

    @classmethod
    def holding(cls, tensors_bytes: Iterable[int]) -> "Segments":
        """The segments for tensors of these sizes, in whatever order they come and whichever are freed between.

        A segment is opened only when the untouched end of every other is smaller than the tensor, and a tensor touches
        no more new bytes than its own and what is not split off. So all segments but the last are touched up to less
        than the largest tensor. A tensor of 10 to 20 MiB may take a middle segment, and is counted there as well.
        """
        blocks = [_rounded_up(size, BLOCK_BYTES) for size in tensors_bytes]
        small = [size for size in blocks if size <= SMALL_BYTES]
        middle = [size for size in blocks if SMALL_BYTES < size < MIDDLE_BYTES]
        own = [size for size in blocks if size >= MIDDLE_BYTES]
        touched = [size + SMALL_BYTES for size in (*middle, *own) if size < MIDDLE_SEGMENT_BYTES]
        return cls(
            _shared_bytes(small, sum(small) - max(small, default=0), SMALL_SEGMENT_BYTES),
            _shared_bytes(middle, sum(touched) - max(middle, default=0) - SMALL_BYTES, MIDDLE_SEGMENT_BYTES),
            sum(_rounded_up(size, OWN_SEGMENT_STEP_BYTES) for size in own),
        )


def _shared_bytes(blocks: Sequence[int], touched_bytes: int, segment_bytes: int) -> int:
    """``touched_bytes`` are those of all blocks but the largest, for which the last segment is opened."""
    if not blocks:
        return 0
    touched_of_each = segment_bytes - max(blocks) + BLOCK_BYTES
    return min(len(blocks), 1 + touched_bytes // touched_of_each) * segment_bytes


def _rounded_up(size: int, step: int) -> int:
    return -(-size // step) * step


@dataclass(frozen=True, slots=True)
class BucketMemory:
    """One bucket's bytes on the device: a slot's input, the constants of its reorder, the most a capture makes."""

    bucket: Bucket
    arena_bytes: int
    constant_bytes: int
    activations: Segments

    @property
    def activation_bytes(self) -> int:
        return self.activations.total_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphMemory:
    """The device memory of every graph of ``ladder``: ``slots_per_lane`` slots of each bucket in each of ``lanes``.

    ``dense_bytes`` is the width of the dense layers' arithmetic: 2 (bf16, fp16) or 4 (f32, tf32). Every bucket has room
    for one id per feature.
    """

    spec: ModelSpec
    ladder: BucketLadder
    dense_bytes: int
    lanes: int
    slots_per_lane: int

    def __post_init__(self) -> None:
        if self.dense_bytes not in (2, 4):
            raise ValueError(f"want dense layers of 2 or 4 bytes a value, got {self.dense_bytes}")
        if self.lanes < 1 or self.slots_per_lane < 1:
            raise ValueError(f"want at least one lane and slot, got {self.lanes} and {self.slots_per_lane}")

    @property
    def buckets(self) -> tuple[BucketMemory, ...]:
        """Smallest bucket first."""
        return tuple(self._of(bucket) for bucket in self.ladder.buckets)

    def _of(self, bucket: Bucket) -> BucketMemory:
        features = len(self.spec.sparse_features)
        layout = ArenaLayout(bucket.rows, bucket.ids, len(self.spec.dense_features), features)
        tensors = activation_tensors(self.spec, bucket, dense_bytes=self.dense_bytes)
        constants = sum(size for _, size in constant_tensors(self.spec, bucket))
        return BucketMemory(bucket, layout.size_bytes, constants, Segments.holding(size for _, size in tensors))

    @property
    def static_bytes(self) -> int:
        """What lies outside the pools: every slot's input, which is written between replays, and the constants."""
        arenas = [memory.arena_bytes for memory in self.buckets] * self.lanes * self.slots_per_lane
        constants = [size for bucket in self.ladder.buckets for _, size in constant_tensors(self.spec, bucket)]
        return Segments.holding(arenas + constants).total_bytes

    @property
    def pool_bytes(self) -> int:
        """One lane's pool. Its graphs never overlap: it holds the most of each kind of segment that a bucket needs."""
        needed = [memory.activations for memory in self.buckets]
        return Segments(
            max(segments.small_bytes for segments in needed),
            max(segments.middle_bytes for segments in needed),
            max(segments.own_bytes for segments in needed),
        ).total_bytes

    @property
    def weight_bytes(self) -> int:
        """The weights on the device: rows padded to what FBGEMM's CUDA kernels read, layers in their arithmetic."""
        rows = sum(table.rows * _rounded_up(table.row_bytes, ROW_ALIGNMENT_BYTES) for table in self.spec.tables)
        shapes = (*self.spec.dense_shapes(), *self.spec.over_shapes())
        return rows + sum(out * (width + 1) for out, width in shapes) * self.dense_bytes

    @property
    def total_bytes(self) -> int:
        return self.static_bytes + self.lanes * (self.pool_bytes + WORKSPACE_BYTES)

    def lines(self) -> Iterator[str]:
        """The arithmetic as a table, in MiB."""
        yield "  rows     ids  input  constants  capture  (MiB: a slot's input, a bucket's constants, a capture's pool)"
        for memory in self.buckets:
            sizes = (memory.arena_bytes / MIB, memory.constant_bytes / MIB, memory.activation_bytes / MIB)
            yield "{:>6} {:>7} {:>6.3f} {:>10.3f} {:>8.1f}".format(memory.bucket.rows, memory.bucket.ids, *sizes)
        lanes = _counted(self.lanes, "lane")
        yield f"{_mib(self.static_bytes)} MiB  inputs and constants of {self._what()}"
        yield f"{_mib(self.lanes * self.pool_bytes)} MiB  pools: the most of each kind of segment x {lanes}"
        yield f"{_mib(self.lanes * WORKSPACE_BYTES)} MiB  cuBLAS workspaces: {WORKSPACE_BYTES // MIB} MiB x {lanes}"
        yield f"{_mib(self.total_bytes)} MiB  in all, without what the driver keeps for itself"

    def refusal(self, budget_mib: int) -> str | None:
        """None if the graphs fit; else why not in one sentence, the arithmetic, and what would help."""
        if self.total_bytes <= budget_mib * MIB:
            return None
        need = f"{self.total_bytes / MIB:.1f} MiB that {self._what()} need"
        sentence = f"--graph-memory {budget_mib} MiB is less than the {need}"
        more = f"--graph-memory {-(-self.total_bytes // MIB)}"
        return "\n".join([sentence, *self.lines(), *self._remedies(budget_mib * MIB, more)])

    def refusal_for_free(self, *, free_bytes: int, weight_bytes: int) -> str | None:
        """As ``refusal``, for what the device has free before weights and graphs are placed."""
        if self.total_bytes + weight_bytes <= free_bytes:
            return None
        graphs = f"{self.total_bytes / MIB:.1f} MiB for the graphs of {self._what()}"
        needs = f"the model needs {weight_bytes / MIB:.1f} MiB for weights and {graphs}"
        sentence = f"{needs}, the device has {free_bytes / MIB:.1f} MiB free"
        remedies = self._remedies(free_bytes - weight_bytes, "a device with more free memory")
        return "\n".join([sentence, *self.lines(), *remedies])

    def _what(self) -> str:
        lanes, slots = _counted(self.lanes, "lane"), _counted(self.slots_per_lane, "slot")
        return f"{_counted(len(self.ladder.buckets), 'bucket')} x {lanes} x {slots}"

    def _remedies(self, budget_bytes: int, more: str) -> Iterator[str]:
        """Each change that is enough by itself, the smallest of its kind; ``more`` always is."""
        yield "what would help:"
        changes: tuple[tuple[str, int, Callable[[int], GraphMemory]], ...] = (
            ("--buckets", len(self.ladder.buckets), self._with_smallest),
            ("--lanes", self.lanes, lambda lanes: replace(self, lanes=lanes)),
            ("--slots", self.slots_per_lane, lambda slots: replace(self, slots_per_lane=slots)),
        )
        for option, count, changed in changes:
            for fewer in range(count - 1, 0, -1):
                smaller = changed(fewer)
                if smaller.total_bytes <= budget_bytes:
                    rows = (str(bucket.rows) for bucket in smaller.ladder.buckets)
                    value = ",".join(rows) if option == "--buckets" else str(fewer)
                    yield f"  {option} {value}  ({smaller.total_bytes / MIB:.1f} MiB)"
                    break
        yield f"  {more}"

    def _with_smallest(self, count: int) -> "GraphMemory":
        return replace(self, ladder=BucketLadder(self.ladder.buckets[:count]))


def constant_tensors(spec: ModelSpec, bucket: Bucket) -> Iterator[tuple[str, int]]:
    """(what, bytes) of every tensor that the reorder of ``bucket`` keeps for all lanes."""
    bags = bucket.rows * len(spec.sparse_features)
    yield "last row by bag", bags * 4
    for what in ("constant offsets", "places of begins", "places of ends"):
        yield what, (bags + 1) * 4
    yield "places of ids", bucket.ids * 4
    if _mixed_poolings(spec):
        yield "means by bag", bags


def activation_tensors(spec: ModelSpec, bucket: Bucket, *, dense_bytes: int) -> Iterator[tuple[str, int]]:
    """(what, bytes) of every tensor that a capture of ``bucket`` for any bags makes; one for one id a bag makes fewer.

    tests/engine/test_graph_memory.py holds this against what the forward really makes.
    """
    rows, ids, bags = bucket.rows, bucket.ids, bucket.rows * len(spec.sparse_features)
    for what in ("begins", "ends", "lengths", "key-major offsets"):
        yield what, (bags + 1) * 4
    # The scan's own memory is a few bytes for each thousand of its elements.
    yield "running sum", (bags + 1) * 4
    yield "shifts", bags * 4
    for what in ("bag of each id", "shift of each id", "place of each id", "last rows", "ids", "clamped ids"):
        yield what, ids * 4
    if _mixed_poolings(spec):
        for what in ("clamped lengths", "reciprocals", "inverse lengths", "weight of each bag"):
            yield what, bags * 4
        yield "weight of each id", ids * 4
    if dense_bytes != 4:
        yield "dense", rows * len(spec.dense_features) * dense_bytes
    yield from _layers("dense", spec.dense_shapes(), rows * dense_bytes)
    yield "pooled vectors", bags * spec.dim * dense_bytes
    yield "vectors", rows * spec.vectors * spec.dim * dense_bytes
    yield "products", rows * spec.vectors**2 * dense_bytes
    yield "triangle", rows * (spec.over_width - spec.dim) * dense_bytes
    yield "over input", rows * spec.over_width * dense_bytes
    yield from _layers("over", spec.over_shapes(), rows * dense_bytes)
    if dense_bytes != 4:
        yield "logits", rows * 4
    yield "scores and sequence word", rows * 4 + 4


def _mixed_poolings(spec: ModelSpec) -> bool:
    return len({table.pooling for table in spec.tables}) > 1


def _layers(arch: str, shapes: Sequence[tuple[int, int]], column_bytes: int) -> Iterator[tuple[str, int]]:
    """ReLU works in place; a layer with a side of 1 adds its bias separately."""
    for number, shape in enumerate(shapes):
        yield f"{arch} layer {number}", shape[0] * column_bytes
        if 1 in shape:
            yield f"{arch} layer {number} and bias", shape[0] * column_bytes


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:>8.1f}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("s" if count != 1 else "")

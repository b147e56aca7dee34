"""The arithmetic of graph memory, against sizes added up by hand and against what the forward really makes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from narsil_graph.engine.forward import Forward
from narsil_graph.engine.graph_memory import (
    MIB,
    WORKSPACE_BYTES,
    GraphMemory,
    Segments,
    activation_tensors,
    constant_tensors,
)
from narsil_graph.engine.reorder import Reorder
from narsil_graph.model.reference import reference_model
from narsil_graph.model.spec import ModelSpec
from narsil_transport.buckets import Bucket, BucketLadder
from tests.engine.tiny import SHAPES, tiny_model

SPEC = SHAPES["4 vectors"].spec()
DEFAULT_ROWS = (1, 2, 4, 8, 16, 32, 64, 100, 128, 200, 256, 300, 400)
REFERENCE = reference_model(seed=0, rows=4).spec


def memory_of(
    rows: tuple[int, ...] = (1, 8),
    *,
    spec: ModelSpec = SPEC,
    ids_per_row: int | None = None,
    dense_bytes: int = 4,
    lanes: int = 1,
    slots: int = 2,
) -> GraphMemory:
    ladder = BucketLadder.from_rows(rows, ids_per_row=ids_per_row or 4 * len(spec.sparse_features))
    return GraphMemory(spec=spec, ladder=ladder, dense_bytes=dense_bytes, lanes=lanes, slots_per_lane=slots)


REFERENCE_MEMORY = memory_of(DEFAULT_ROWS, spec=REFERENCE, lanes=2)


def test_arena_holds_header_dense_values_and_offsets_in_aligned_sections() -> None:
    memory = memory_of((5,), ids_per_row=7).buckets[0]
    # 5 * 3 dense values are 60 bytes, 5 * 7 ids are 140, 5 * 3 + 1 offsets are 64.
    assert memory.arena_bytes == 16 + 64 + 144 + 64


def test_activations_are_every_stage_of_the_forward() -> None:
    # 3 dense features, dense arch 10-8, 3 features of dim 8, so 4 vectors and 6 dots, over arch 14-12-1.
    tensors = list(activation_tensors(SPEC, Bucket(rows=10, ids=50), dense_bytes=2))
    per_row = [3, 10, 8, 3 * 8, 4 * 8, 4 * 4, 6, 14, 12, 1, 1]
    want = [*[31 * 4] * 5, 30 * 4, *[50 * 4] * 6, *[10 * width * 2 for width in per_row], 10 * 4, 10 * 4 + 4]
    assert [size for _, size in tensors] == want


class Made(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The bytes of every storage that operators make."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [*args, *(kwargs or {}).values()]
        given += [part for several in given if isinstance(several, list) for part in several]
        known = {part.untyped_storage().data_ptr() for part in given if isinstance(part, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and (storage := out.untyped_storage()).data_ptr() not in known:
            # Kept, so that no later storage has its address.
            self.storages[storage.data_ptr()] = storage
        return out

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", ["4 vectors", "mixed poolings", "one dense feature, dim 4", "three layers each"])
@pytest.mark.parametrize("bags", [True, False], ids=["bags", "one id"])
def test_forward_makes_what_is_counted(shape: str, dtype: torch.dtype, bags: bool) -> None:
    model, bucket = tiny_model(SHAPES[shape]), Bucket(6, 60)
    spec, features = model.spec, len(model.spec.sparse_features)
    forward = Forward(model, place=torch.Tensor.contiguous, dtype=dtype)
    reorder = Reorder(spec, bucket, torch.Tensor.contiguous)
    dense, values = torch.rand(6, len(spec.dense_features)), torch.zeros(60, dtype=torch.int32)
    offsets = torch.arange(6 * features + 1, dtype=torch.int32)
    with torch.inference_mode(), Made() as made:
        scores = forward(dense, *(reorder.bags(values, offsets) if bags else (*reorder.one_id(values), None)))
        torch.cat([scores.view(torch.int32), offsets[:1]])
    counted = dict(activation_tensors(spec, bucket, dense_bytes=dtype.itemsize))
    # Only the device's scan has memory of its own.
    del counted["running sum"]
    if bags:
        assert made.bytes == sum(counted.values())
    else:
        assert 0 < made.bytes < sum(counted.values())


@pytest.mark.parametrize("shape", ["4 vectors", "mixed poolings"])
def test_constants_are_what_the_reorder_places(shape: str) -> None:
    spec, bucket = SHAPES[shape].spec(), Bucket(6, 60)
    placed: list[torch.Tensor] = []

    def place(tensor: torch.Tensor) -> torch.Tensor:
        placed.append(tensor)
        return tensor

    Reorder(spec, bucket, place)
    of_the_bucket = [tensor.nbytes for tensor in placed if tensor.numel() > len(spec.sparse_features)]
    assert sum(of_the_bucket) == sum(size for _, size in constant_tensors(spec, bucket))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", ["dim 64", "mixed formats and poolings"])
def test_weights_are_those_that_the_forward_places(shape: str, dtype: torch.dtype) -> None:
    model = tiny_model(SHAPES[shape])
    placed = Forward(model, place=torch.Tensor.contiguous, dtype=dtype, row_alignment_bytes=16).weights()
    memory = memory_of(spec=model.spec, dense_bytes=dtype.itemsize)
    assert memory.weight_bytes == sum(tensor.nbytes for tensor in placed)
    assert memory.weight_bytes != model.weight_bytes


def test_inputs_of_every_bucket_slot_and_lane_add_up_and_constants_are_shared() -> None:
    memory = memory_of((1000, 2000), slots=3, lanes=4)
    constants = [size for bucket in memory.ladder.buckets for _, size in constant_tensors(SPEC, bucket)]
    arenas = [bucket.arena_bytes for bucket in memory.buckets] * 12
    assert memory.static_bytes == Segments.holding(arenas + constants).total_bytes
    assert memory.static_bytes >= sum(arenas) + sum(bucket.constant_bytes for bucket in memory.buckets)


def test_pool_holds_the_largest_bucket_and_not_the_sum() -> None:
    memory = memory_of((64, 100, 128), spec=REFERENCE)
    assert memory.pool_bytes == max(bucket.activation_bytes for bucket in memory.buckets)


def test_pool_keeps_small_segments_that_the_largest_bucket_does_not_need() -> None:
    # A bucket of 1,000 rows fills small segments with what bucket 4,096 keeps in segments of 20 MiB.
    small, large = (memory_of((rows,), spec=REFERENCE).buckets[0].activations for rows in (1000, 4096))
    assert small.small_bytes > large.small_bytes
    memory = memory_of((1000, 4096), spec=REFERENCE)
    assert memory.pool_bytes == large.total_bytes + small.small_bytes - large.small_bytes


def test_total_is_inputs_constants_and_per_lane_a_pool_and_a_workspace() -> None:
    memory = memory_of(lanes=3)
    assert memory.total_bytes == memory.static_bytes + 3 * (memory.pool_bytes + WORKSPACE_BYTES)


rows_lists = st.lists(st.integers(1, 5000), min_size=2, max_size=6, unique=True).map(lambda rows: tuple(sorted(rows)))


@given(rows=rows_lists, lanes=st.integers(1, 4), slots=st.integers(1, 4))
def test_more_lanes_slots_or_buckets_never_need_less(rows: tuple[int, ...], lanes: int, slots: int) -> None:
    memory = memory_of(rows, spec=REFERENCE, lanes=lanes, slots=slots)
    assert memory.total_bytes < replace(memory, lanes=lanes + 1).total_bytes
    assert memory.total_bytes <= replace(memory, slots_per_lane=slots + 1).total_bytes
    assert replace(memory, ladder=BucketLadder(memory.ladder.buckets[:-1])).total_bytes <= memory.total_bytes


@given(rows=st.integers(1, 5000), ids_per_row=st.integers(26, 200))
def test_more_rows_ids_or_wider_values_never_make_a_tensor_smaller(rows: int, ids_per_row: int) -> None:
    bucket = Bucket(rows, rows * ids_per_row)
    sizes = dict(activation_tensors(REFERENCE, bucket, dense_bytes=2))
    for larger, dense_bytes in ((Bucket(rows + 1, bucket.ids), 2), (Bucket(rows, bucket.ids + 1), 2), (bucket, 4)):
        other = dict(activation_tensors(REFERENCE, larger, dense_bytes=dense_bytes))
        # float32 needs no cast of its input and its scores.
        assert all(size <= other[name] for name, size in sizes.items() if name not in ("dense", "logits"))
        assert sum(sizes.values()) < sum(other.values())


@pytest.mark.parametrize(
    ("dense_bytes", "lanes", "slots", "words"),
    [
        (1, 1, 2, "2 or 4 bytes a value, got 1"),
        (4, 0, 2, "at least one lane and slot, got 0 and 2"),
        (4, 1, 0, "at least one lane and slot, got 1 and 0"),
    ],
)
def test_what_cannot_be_is_not_built(dense_bytes: int, lanes: int, slots: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        memory_of(dense_bytes=dense_bytes, lanes=lanes, slots=slots)


def test_table_has_a_line_per_bucket_and_ends_in_the_sum() -> None:
    lines = list(REFERENCE_MEMORY.lines())
    assert [line.split()[:2] for line in lines[1:14]] == [
        [str(bucket.rows), str(bucket.ids)] for bucket in REFERENCE_MEMORY.ladder.buckets
    ]
    assert [line.split(" MiB  ") for line in lines[14:]] == [
        ["     6.0", "inputs and constants of 13 buckets x 2 lanes x 2 slots"],
        ["    56.0", "pools: the most of each kind of segment x 2 lanes"],
        ["    64.0", "cuBLAS workspaces: 32 MiB x 2 lanes"],
        ["   126.0", "in all, without what the driver keeps for itself"],
    ]


def test_enough_memory_is_not_refused() -> None:
    assert REFERENCE_MEMORY.refusal(126) is None
    assert REFERENCE_MEMORY.refusal_for_free(free_bytes=326 * MIB, weight_bytes=200 * MIB) is None


def test_refusal_is_one_sentence_the_arithmetic_and_what_would_help() -> None:
    refused = REFERENCE_MEMORY.refusal(120)
    assert refused is not None
    sentence, *lines = refused.splitlines()
    assert sentence == "--graph-memory 120 MiB is less than the 126.0 MiB that 13 buckets x 2 lanes x 2 slots need"
    table = list(REFERENCE_MEMORY.lines())
    assert lines[: len(table)] == table
    assert lines[len(table) :] == [
        "what would help:",
        "  --buckets 1,2,4,8,16,32,64,100,128,200,256  (120.0 MiB)",
        "  --lanes 1  (64.0 MiB)",
        "  --graph-memory 126",
    ]


def test_slots_help_where_inputs_are_what_is_large() -> None:
    memory = memory_of((20_000,), ids_per_row=3, slots=8)
    fewer = replace(memory, slots_per_lane=6).total_bytes // MIB
    assert fewer < replace(memory, slots_per_lane=7).total_bytes // MIB
    refused = memory.refusal(fewer)
    assert refused is not None
    assert f"\n  --slots 6  ({fewer:.1f} MiB)\n" in refused


def test_what_is_not_enough_by_itself_is_not_proposed() -> None:
    refused = REFERENCE_MEMORY.refusal(1)
    assert refused is not None
    assert refused.splitlines()[-2:] == ["what would help:", "  --graph-memory 126"]


def test_refusal_for_a_full_device_states_weights_graphs_and_what_is_free() -> None:
    refused = REFERENCE_MEMORY.refusal_for_free(free_bytes=300 * MIB, weight_bytes=212 * MIB)
    assert refused is not None
    assert refused.splitlines()[0] == (
        "the model needs 212.0 MiB for weights and 126.0 MiB for the graphs of 13 buckets x 2 lanes x 2 slots, "
        "the device has 300.0 MiB free"
    )
    assert "\n  --lanes 1  (64.0 MiB)\n" in refused
    assert refused.endswith("\n  a device with more free memory")

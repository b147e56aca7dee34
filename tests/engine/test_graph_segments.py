"""What the allocator reserves for tensors, against a small model of torch's rules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narsil_graph.engine.graph_memory import MIB, GraphMemory, Segments, activation_tensors
from narsil_graph.model.reference import reference_model
from narsil_graph.model.spec import ModelSpec
from narsil_transport.buckets import BucketLadder
from tests.engine.tiny import SHAPES

SPECS = {"tiny": SHAPES["4 vectors"].spec(), "reference": reference_model(seed=0, rows=4).spec}


def reserved_mib(*sizes_mib: float) -> float:
    return Segments.holding(int(size * MIB) for size in sizes_mib).total_bytes / MIB


@pytest.mark.parametrize(
    ("sizes_mib", "want"),
    [
        ([], 0),
        ([1e-6], 2),
        ([1.0], 2),
        ([0.5] * 3, 2),
        ([1.0, 1.0, 1.0], 4),
        # 0.8 and 0.8 leave too little for the third in every segment.
        ([0.8] * 5, 6),
        ([1.5], 20),
        ([1.5, 3.0, 2.0], 20),
        ([9.0, 9.0, 9.0], 40),
        ([10.0], 10),
        ([11.0], 12),
        ([0.5, 3.0, 33.0], 2 + 20 + 34),
    ],
)
def test_segments_are_those_of_the_allocator(sizes_mib: list[float], want: float) -> None:
    assert reserved_mib(*sizes_mib) == want


def test_every_tensor_is_rounded_up_to_a_block() -> None:
    # 4,096 tensors of one byte take 512 bytes each: 2 MiB.
    assert Segments.holding([1] * 4096).total_bytes == 2 * MIB
    assert Segments.holding([1] * 4097).total_bytes == 4 * MIB


class Allocator:
    """torch's rules in a few lines: the best fit, split unless the rest is too small, merged when freed."""

    def __init__(self) -> None:
        # Per pool: segments as lists of [size, is free].
        self.segments: dict[bool, list[list[list[int]]]] = {True: [], False: []}
        self.reserved = 0

    def take(self, size: int) -> tuple[bool, int, list[int]]:
        size = -(-size // 512) * 512
        small = size <= MIB
        pool = self.segments[small]
        fits = [
            (block[0], number) for number, part in enumerate(pool) for block in part if block[1] and block[0] >= size
        ]
        if not fits:
            segment = 2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
            pool.append([[segment, 1]])
            self.reserved += segment
            fits = [(segment, len(pool) - 1)]
        best, number = min(fits)
        place = next(place for place, block in enumerate(pool[number]) if block[1] and block[0] == best)
        rest = best - size
        split = rest >= 512 if small else rest > MIB
        block = [size if split else best, 0]
        pool[number][place : place + 1] = [block, [rest, 1]] if split else [block]
        return small, number, block

    def free(self, taken: tuple[bool, int, list[int]]) -> None:
        small, number, block = taken
        block[1] = 1
        merged: list[list[int]] = []
        for size, is_free in self.segments[small][number]:
            if is_free and merged and merged[-1][1]:
                merged[-1][0] += size
            else:
                merged.append([size, is_free])
        # Blocks that are in use keep their identity, by which they are freed.
        kept = iter([part for part in self.segments[small][number] if not part[1]])
        self.segments[small][number] = [next(kept) if not part[1] else part for part in merged]


@given(
    sizes=st.lists(
        st.one_of(st.integers(1, MIB + 9), st.integers(MIB, 12 * MIB), st.integers(1, 45 * MIB)), max_size=40
    ),
    seed=st.integers(0, 2**32),
    kept=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
)
def test_allocator_never_reserves_more_whatever_is_freed_between(sizes: list[int], seed: int, kept: float) -> None:
    rng, allocator = np.random.default_rng(seed), Allocator()
    live: list[tuple[bool, int, list[int]]] = []
    for size in sizes:
        live.append(allocator.take(size))
        if rng.random() > kept:
            allocator.free(live.pop(int(rng.integers(len(live)))))
    assert allocator.reserved <= Segments.holding(sizes).total_bytes


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("rows", [1, 64, 100, 400, 1024])
def test_captures_in_one_pool_reserve_no_more_than_the_pool(spec: ModelSpec, rows: int) -> None:
    sizes = (rows // 4, rows // 2, rows) if rows > 1 else (1,)
    ladder = BucketLadder.from_rows(sizes, ids_per_row=4 * len(spec.sparse_features))
    memory = GraphMemory(spec=spec, ladder=ladder, dense_bytes=4, lanes=1, slots_per_lane=2)
    allocator = Allocator()
    for bucket in reversed(ladder.buckets):
        live = [allocator.take(size) for _, size in activation_tensors(spec, bucket, dense_bytes=4)]
        for taken in live:
            allocator.free(taken)
    assert allocator.reserved <= memory.pool_bytes

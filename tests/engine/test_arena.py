"""An arena holds exactly the bags of its rows, and every byte behind them is defined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narsil_graph.engine.arena import Arena, ArenaLayout, Bytes, RowRange
from narsil_transport.buckets import Bucket
from narsil_transport.messages import Ids, InferRequest
from tests.engine.tiny import bags_of, multi_hot, one_hot

FEATURES, DENSE = 3, 2
BASES = np.array([0, 100, 1000], np.int32)
POISON = 2**31 - 1
LEADS = pytest.mark.parametrize("lead", [0, 1])


def arena(*, lead: int = 0, rows: int = 6, ids: int = 40, poisoned: bool = True) -> Arena:
    made = Arena(Bucket(rows, ids), dense_width=DENSE, id_bases=BASES, lead=lead)
    if poisoned:
        made.dense.fill(np.nan)
        made.values.fill(POISON)
        made.offsets.fill(POISON)
    return made


def dense(rows: int, first: float = 0.0) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return (np.arange(rows * DENSE, dtype=np.float32).reshape(rows, DENSE) + np.float32(first)).copy()


def laid_bags(filled: Arena, *, lead: int) -> list[list[list[int]]]:
    """Every bag of every row of the bucket as the lookup would read it, the lead bags included."""
    bags = FEATURES + lead
    ends = [filled.values[a:b].tolist() for a, b in zip(filled.offsets[:-1], filled.offsets[1:], strict=True)]
    return [ends[row * bags : (row + 1) * bags] for row in range(filled.bucket.rows)]


def expected_bags(pieces: list[RowRange], *, rows: int, lead: int) -> list[list[list[int]]]:
    real: list[list[list[int]]] = [
        [[]] * lead + [[value + int(base) for value in bag] for bag, base in zip(row, BASES, strict=True)]
        for request, begin, end in pieces
        for row in bags_of(request)[begin:end]
    ]
    return real + [[[]] * (FEATURES + lead)] * (rows - len(real))


ONE_HOT = one_hot(dense(3), np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.int32))
MULTI_HOT = multi_hot(dense(3, 50.0), [[[1], [], [2, 3]], [[], [], []], [[4, 4, 5], [6], []]])
WIDE_IDS = one_hot(dense(2), np.array([[1, 2, 3], [4, 5, 6]], np.int64))
WIDE_BAGS = multi_hot(dense(2), [[[9], [8, 7], []], [[], [6], [5]]], np.int64)
BATCHES: dict[str, list[RowRange]] = {
    "one hot": [(ONE_HOT, 0, 3)],
    "multi hot": [(MULTI_HOT, 0, 3)],
    "some rows of a one-hot request": [(ONE_HOT, 1, 2)],
    "some rows of a multi-hot request": [(MULTI_HOT, 2, 3)],
    "only empty bags": [(MULTI_HOT, 1, 2)],
    "one hot, then multi hot": [(ONE_HOT, 0, 3), (MULTI_HOT, 0, 3)],
    "multi hot, then one hot": [(MULTI_HOT, 0, 2), (ONE_HOT, 2, 3), (MULTI_HOT, 2, 3)],
    "int64 ids": [(WIDE_IDS, 0, 2), (WIDE_BAGS, 0, 2)],
    "a full bucket": [(ONE_HOT, 0, 3), (ONE_HOT, 0, 3)],
    "nothing": [],
}


@LEADS
@pytest.mark.parametrize("pieces", list(BATCHES.values()), ids=list(BATCHES))
def test_batch_is_laid_bag_by_bag_with_id_bases_and_empty_padding(pieces: list[RowRange], lead: int) -> None:
    filled = arena(lead=lead)
    filled.fill(pieces)
    assert laid_bags(filled, lead=lead) == expected_bags(pieces, rows=6, lead=lead)
    assert filled.rows == sum(end - begin for _, begin, end in pieces)
    assert filled.ids == filled.offsets[-1]


@pytest.mark.parametrize("pieces", list(BATCHES.values()), ids=list(BATCHES))
def test_dense_values_follow_their_rows(pieces: list[RowRange]) -> None:
    filled = arena()
    filled.fill(pieces)
    expected = [row for request, begin, end in pieces for row in request.dense[begin:end].tolist()]
    assert filled.dense.tolist() == expected + [[0.0] * DENSE] * (6 - len(expected))


@LEADS
@pytest.mark.parametrize("pieces", list(BATCHES.values()), ids=list(BATCHES))
def test_poison_behind_the_batch_is_gone(pieces: list[RowRange], lead: int) -> None:
    poisoned, clean = arena(lead=lead), arena(lead=lead, poisoned=False)
    poisoned.fill(pieces)
    clean.fill(pieces)
    assert poisoned.dense.tobytes() == clean.dense.tobytes()
    assert poisoned.values.tobytes() == clean.values.tobytes()
    assert poisoned.offsets.tobytes() == clean.offsets.tobytes()


def test_one_hot_is_said_only_of_batches_without_bags() -> None:
    filled = arena()
    filled.fill([(ONE_HOT, 0, 3), (MULTI_HOT, 0, 1)])
    assert not filled.one_hot
    filled.fill([(ONE_HOT, 0, 3)])
    assert filled.one_hot


def test_request_arrays_are_not_written() -> None:
    request = one_hot(dense(2), np.array([[1, 2, 3], [4, 5, 6]], np.int32))
    assert request.ids is not None
    request.ids.flags.writeable = request.dense.flags.writeable = False
    arena().fill([(request, 0, 2)])
    assert request.ids.tolist() == [[1, 2, 3], [4, 5, 6]]


@st.composite
def requests(draw: st.DrawFn) -> InferRequest:
    rows = draw(st.integers(1, 4))
    dtype = draw(st.sampled_from([np.int32, np.int64]))
    if draw(st.booleans()):
        drawn = draw(st.lists(st.lists(st.integers(0, 99), min_size=3, max_size=3), min_size=rows, max_size=rows))
        ids: Ids = np.array(drawn, np.int32) if dtype is np.int32 else np.array(drawn, np.int64)
        return one_hot(dense(rows), ids)
    bag = st.lists(st.integers(0, 99), max_size=3)
    row = st.lists(bag, min_size=FEATURES, max_size=FEATURES)
    return multi_hot(dense(rows), draw(st.lists(row, min_size=rows, max_size=rows)), dtype)


@LEADS
@given(batch=st.lists(requests(), max_size=4), data=st.data())
def test_any_batch_is_laid_bag_by_bag(lead: int, batch: list[InferRequest], data: st.DataObject) -> None:
    filled = arena(lead=lead, rows=16, ids=16 * 9)
    pieces: list[RowRange] = []
    for request in batch:
        begin = data.draw(st.integers(0, request.rows - 1))
        pieces.append((request, begin, data.draw(st.integers(begin + 1, request.rows))))
    filled.fill(pieces)
    assert laid_bags(filled, lead=lead) == expected_bags(pieces, rows=16, lead=lead)
    assert filled.offsets[0] == 0


@given(rows=st.integers(1, 50), ids=st.integers(1, 200), dense_width=st.integers(1, 20), bags=st.integers(1, 30))
def test_sections_are_aligned_and_follow_one_another(rows: int, ids: int, dense_width: int, bags: int) -> None:
    layout = ArenaLayout(rows, ids, dense_width, bags)
    begins = (layout.dense_begin, layout.values_begin, layout.offsets_begin, layout.size_bytes)
    assert all(begin % 16 == 0 for begin in begins)
    assert layout.dense_begin == 16
    assert 0 <= layout.values_begin - (layout.dense_begin + rows * dense_width * 4) < 16
    assert 0 <= layout.offsets_begin - (layout.values_begin + ids * 4) < 16
    assert 0 <= layout.size_bytes - (layout.offsets_begin + (rows * bags + 1) * 4) < 16


def test_prefix_ends_with_the_values_that_it_is_asked_for() -> None:
    layout = ArenaLayout(rows=6, ids=40, dense_width=DENSE, bags=FEATURES)
    assert layout.prefix_bytes(18) == layout.values_begin + 72
    assert layout.prefix_bytes(40) <= layout.offsets_begin


def test_arena_is_one_run_of_the_bytes_that_it_was_given() -> None:
    taken: list[Bytes] = []

    def allocate(size_bytes: int) -> Bytes:
        taken.append(np.zeros(size_bytes, np.uint8))
        return taken[0]

    made = Arena(Bucket(6, 40), dense_width=DENSE, id_bases=BASES, lead=0, allocate=allocate)
    (memory,) = taken
    made.header[0] = 7
    made.fill([(ONE_HOT, 0, 3)])
    layout = made.layout
    assert memory[:4].view(np.int32).tolist() == [7]
    assert memory[layout.dense_begin :][: 3 * DENSE * 4].view(np.float32).tolist() == ONE_HOT.dense.ravel().tolist()
    assert memory[layout.values_begin :][:12].view(np.int32).tolist() == [1, 102, 1003]
    assert memory[layout.offsets_begin :][:16].view(np.int32).tolist() == [0, 1, 2, 3]

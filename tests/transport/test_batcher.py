"""Which requests share a launch, and in what order."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narsil_transport.admission import Admitted
from narsil_transport.batcher import PATIENCE_NS, Batch, Batcher, Mode
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.status import Status
from tests.transport.requests import FEATURES, admitted, limits, multi_hot, one_hot

LADDER = BucketLadder.from_rows((1, 2, 4, 8), ids_per_row=FEATURES)


def batcher(mode: Mode = Mode.BATCH, *, ladder: BucketLadder = LADDER, queue_rows_max: int = 1000) -> Batcher:
    return Batcher(ladder=ladder, mode=mode, queue_rows_max=queue_rows_max)


def queued(queue: Batcher, *requests: tuple[int, int | None]) -> list[Admitted]:
    """(rows, deadline_us) of each request, admitted at 0 with its position as id."""
    entered = [
        admitted(one_hot(rows, request_id=index, deadline_us=deadline_us))
        for index, (rows, deadline_us) in enumerate(requests)
    ]
    for each in entered:
        assert queue.add(each) is None
    return entered


def ranges(batch: Batch | None) -> list[tuple[int, int, int]]:
    """(request id, begin, end) of each piece."""
    assert batch is not None
    return [(piece.admitted.request.request_id, piece.begin, piece.end) for piece in batch.pieces]


def test_empty_queue_gives_no_batch() -> None:
    assert batcher().take(0) is None


def test_one_request_leaves_at_once_in_the_smallest_bucket() -> None:
    queue = batcher()
    queued(queue, (3, None))
    batch = queue.take(0)
    assert ranges(batch) == [(0, 0, 3)]
    assert batch is not None and batch.bucket == Bucket(4, 12) and (batch.rows, batch.ids) == (3, 9)


def test_requests_share_a_batch_until_the_next_does_not_fit() -> None:
    queue = batcher()
    queued(queue, (3, None), (4, None), (2, None), (1, None))
    assert ranges(queue.take(0)) == [(0, 0, 3), (1, 0, 4)]
    assert ranges(queue.take(0)) == [(2, 0, 2), (3, 0, 1)]
    assert queue.take(0) is None


@pytest.mark.parametrize("mode", [Mode.WORKER, Mode.INLINE])
def test_other_modes_give_each_request_its_own_batch(mode: Mode) -> None:
    queue = batcher(mode)
    queued(queue, (1, None), (1, None))
    assert [ranges(queue.take(0)), ranges(queue.take(0))] == [[(0, 0, 1)], [(1, 0, 1)]]


def test_request_beyond_the_largest_bucket_is_cut_and_its_tail_shares() -> None:
    queue = batcher()
    queued(queue, (19, None), (2, None))
    got = [ranges(queue.take(0)) for _ in range(3)]
    assert got == [[(0, 0, 8)], [(0, 8, 16)], [(0, 16, 19), (1, 0, 2)]]


def test_cut_request_is_finished_before_a_more_urgent_one() -> None:
    queue = batcher()
    queued(queue, (9, None))
    assert ranges(queue.take(0)) == [(0, 0, 8)]
    queue.add(admitted(one_hot(8, request_id=7, deadline_us=1)))
    assert ranges(queue.take(0)) == [(0, 8, 9)]
    assert ranges(queue.take(0)) == [(7, 0, 8)]


def test_bags_are_cut_where_the_ids_run_out() -> None:
    queue = batcher(ladder=BucketLadder((Bucket(8, 5),)))
    lengths = [[1, 1, 0], [3, 0, 0], [0, 0, 0], [4, 0, 0], [2, 0, 0]]
    queue.add(admitted(multi_hot(lengths, [0] * 11), within=limits(ids_per_row_max=5)))
    first, second, third = queue.take(0), queue.take(0), queue.take(0)
    assert [ranges(batch) for batch in (first, second, third)] == [[(1, 0, 3)], [(1, 3, 4)], [(1, 4, 5)]]
    assert [batch.ids for batch in (first, second, third) if batch] == [5, 4, 2]


def test_earliest_deadline_goes_first_and_none_goes_last() -> None:
    queue = batcher(Mode.WORKER)
    queued(queue, (1, None), (1, 30), (1, 10), (1, 30), (1, None))
    order = [ranges(queue.take(0))[0][0] for _ in range(5)]
    assert order == [2, 1, 3, 0, 4]


def test_patient_request_leads_once_it_has_waited_long_enough() -> None:
    queue = batcher()
    queued(queue, (5, None), (1, None), (2, 5_000_000))
    assert ranges(queue.take(PATIENCE_NS)) == [(0, 0, 5), (2, 0, 2), (1, 0, 1)]


def test_urgent_request_leads_until_then() -> None:
    queue = batcher()
    queued(queue, (5, None), (2, 5_000_000))
    assert ranges(queue.take(PATIENCE_NS - 1)) == [(1, 0, 2), (0, 0, 5)]


def test_expired_requests_leave_the_queue_at_their_deadline() -> None:
    queue = batcher()
    entered = queued(queue, (1, 20), (2, 10), (3, None))
    assert queue.expired(9_999) == []
    assert queue.expired(10_000) == [entered[1]]
    assert queue.expired(20_000) == [entered[0]]
    assert (queue.pending_rows, queue.pending_requests) == (3, 1)
    assert ranges(queue.take(20_000)) == [(2, 0, 3)]


def test_cut_request_no_longer_expires() -> None:
    queue = batcher()
    queued(queue, (9, 1))
    queue.take(0)
    assert queue.expired(1_000_000) == []
    assert (queue.pending_rows, queue.pending_requests) == (1, 1)


def test_full_queue_is_overloaded_and_keeps_what_it_has() -> None:
    queue = batcher(queue_rows_max=4)
    queued(queue, (3, None))
    refusal = queue.add(admitted(one_hot(2)))
    assert refusal is not None and refusal.status is Status.OVERLOADED
    assert (queue.pending_rows, queue.pending_requests) == (3, 1)
    assert queue.add(admitted(one_hot(1))) is None


def test_new_ladder_is_used_from_the_next_batch_on() -> None:
    queue = batcher(Mode.WORKER)
    queued(queue, *[(1, None)] * 4)
    taken: list[int] = []
    for ladder in (LADDER.buckets[3:], LADDER.buckets[1:], LADDER.buckets, LADDER.buckets[2:]):
        queue.use(BucketLadder(ladder))
        batch = queue.take(0)
        assert batch is not None
        taken.append(batch.bucket.rows)
    assert taken == [8, 2, 1, 4]


def test_new_ladder_takes_the_rest_of_a_cut_request() -> None:
    queue = batcher(ladder=BucketLadder(LADDER.buckets[3:]))
    (entered,) = queued(queue, (9, None))
    assert queue.cut is None
    assert ranges(queue.take(0)) == [(0, 0, 8)]
    assert queue.cut is entered
    queue.use(LADDER)
    batch = queue.take(0)
    assert ranges(batch) == [(0, 8, 9)] and batch is not None and batch.bucket == LADDER.buckets[0]
    assert queue.cut is None


def test_ladder_with_another_largest_bucket_is_no_replacement() -> None:
    with pytest.raises(AssertionError):
        batcher().use(BucketLadder(LADDER.buckets[:3]))


def test_queue_without_room_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="queue_rows_max"):
        batcher(queue_rows_max=0)


BAG_LADDER = BucketLadder((Bucket(2, 6), Bucket(5, 9)))
ROWS = st.lists(st.lists(st.integers(0, 3), min_size=FEATURES, max_size=FEATURES), min_size=1, max_size=14)


def check_batch(batch: Batch, ladder: BucketLadder, mode: Mode) -> None:
    assert batch.bucket == ladder.cover(batch.rows, batch.ids)
    assert batch.rows == sum(piece.end - piece.begin for piece in batch.pieces) > 0
    assert batch.ids == sum(piece.ids for piece in batch.pieces)
    assert mode is Mode.BATCH or len(batch.pieces) == 1


@given(
    st.sampled_from(Mode),
    st.lists(st.tuples(ROWS, st.none() | st.integers(1, 50), st.booleans()), max_size=12),
    st.lists(st.booleans(), max_size=30),
)
def test_every_row_leaves_exactly_once_and_no_batch_overflows(
    mode: Mode, requests: list[tuple[list[list[int]], int | None, bool]], takes: list[bool]
) -> None:
    queue = Batcher(ladder=BAG_LADDER, mode=mode, queue_rows_max=10_000)
    covered: dict[int, list[tuple[int, int]]] = {}
    entered: list[Admitted] = []

    def take() -> bool:
        pending = queue.pending_rows
        batch = queue.take(0)
        if batch is None:
            assert pending == queue.pending_requests == 0
            return False
        check_batch(batch, BAG_LADDER, mode)
        assert pending - queue.pending_rows == batch.rows
        for request_id, begin, end in ranges(batch):
            covered.setdefault(request_id, []).append((begin, end))
        return True

    for index, (lengths, deadline_us, bags) in enumerate(requests):
        values = [0] * sum(map(sum, lengths))
        request = multi_hot(lengths, values, request_id=index) if bags else one_hot(len(lengths), request_id=index)
        request.deadline_us = deadline_us
        entered.append(admitted(request, within=limits(ids_per_row_max=9)))
        assert queue.add(entered[-1]) is None
        if index < len(takes) and takes[index]:
            take()
    while take():
        pass
    for admission in entered:
        edges = covered[admission.request.request_id]
        assert edges[0][0] == 0 and edges[-1][1] == admission.rows
        assert all(before[1] == after[0] for before, after in pairwise(edges))


@given(st.lists(st.tuples(st.integers(1, 20), st.none() | st.integers(1, 5)), max_size=15))
def test_requests_start_by_deadline_then_arrival(requests: list[tuple[int, int | None]]) -> None:
    queue = batcher()
    queued(queue, *requests)
    started: list[int] = []
    while (batch := queue.take(0)) is not None:
        started += [request_id for request_id, begin, _ in ranges(batch) if begin == 0]
    deadlines = [10**9 if deadline_us is None else deadline_us for _, deadline_us in requests]
    assert started == sorted(range(len(requests)), key=lambda index: (deadlines[index], index))

"""Bulk requests take the room that interactive ones leave."""

import pytest

from narsil_transport.batcher import BULK_PATIENCE_NS, Batcher, Mode, Settings
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.messages import Priority
from tests.transport.queueing import batcher, bucket_rows, costs, entering, queued, ranges
from tests.transport.requests import admitted, limits, multi_hot

LARGE = BucketLadder.from_rows((8,), ids_per_row=3)


def eights() -> Batcher:
    """A queue whose only bucket has 8 rows."""
    return batcher(ladder=LARGE)


def test_bulk_fills_the_padding_of_an_interactive_batch() -> None:
    queue = eights()
    queued(queue, (2, None), (1, None), bulk=True)
    queued(queue, (4, None), first=5)
    assert ranges(queue.take(0)) == [(5, 0, 4), (0, 0, 2), (1, 0, 1)]


def test_bulk_does_not_make_the_bucket_larger() -> None:
    queue = batcher()
    queued(queue, (4, None), bulk=True)
    queued(queue, (3, None), first=5)
    batch = queue.take(0)
    assert ranges(batch) == [(5, 0, 3), (0, 0, 1)] and bucket_rows(batch) == 4


def test_one_bulk_request_at_a_time_is_launched_in_pieces() -> None:
    queue = eights()
    queued(queue, (3, None), (9, None), (9, None), bulk=True)
    got: list[list[tuple[int, int, int]]] = []
    for number in range(3):
        queued(queue, (2, None), first=5 + number)
        got.append(ranges(queue.take(0)))
    assert got == [
        [(5, 0, 2), (0, 0, 3), (1, 0, 3)],
        [(6, 0, 2), (1, 3, 9)],
        [(7, 0, 2), (2, 0, 6)],
    ]
    assert [cut.request.request_id for cut in queue.cuts] == [2]


def test_bulk_fills_no_more_ids_than_the_bucket_holds() -> None:
    queue = batcher(ladder=BucketLadder((Bucket(8, 12),)))
    bags = multi_hot([[1, 1, 1], [3, 0, 0], [1, 0, 0]], [0] * 7, request_id=1)
    bags.priority = Priority.BULK
    queue.add(admitted(bags, within=limits(ids_per_row_max=12)))
    queued(queue, (2, None), first=5)
    batch = queue.take(0)
    assert ranges(batch) == [(5, 0, 2), (1, 0, 2)] and batch is not None and batch.ids == 12


def test_bulk_leads_where_no_interactive_request_waits() -> None:
    queue = eights()
    queued(queue, (20, None), bulk=True)
    assert queue.wake_ns(3) == 3
    assert ranges(queue.take(0)) == [(0, 0, 8)]
    queued(queue, (8, None), first=5)
    assert [ranges(queue.take(0)), ranges(queue.take(0))] == [[(5, 0, 8)], [(0, 8, 16)]]


def test_bulk_that_waited_long_enough_goes_by_its_due_time() -> None:
    queue = eights()
    queued(queue, (8, None), bulk=True)
    assert queue.add(entering(8, request_id=5, now_ns=BULK_PATIENCE_NS - 1)) is None
    assert ranges(queue.take(BULK_PATIENCE_NS - 1)) == [(5, 0, 8)]
    assert queue.add(entering(8, request_id=6, now_ns=BULK_PATIENCE_NS)) is None
    assert ranges(queue.take(BULK_PATIENCE_NS)) == [(0, 0, 8)]
    assert ranges(queue.take(BULK_PATIENCE_NS)) == [(6, 0, 8)]


def test_rest_of_a_bulk_request_is_finished_before_another_that_waited_long_enough() -> None:
    queue = eights()
    assert queue.add(entering(20, 9_000_000, request_id=1, now_ns=5_000_000_000, bulk=True)) is None
    assert queue.add(entering(4, request_id=5, now_ns=5_000_000_000)) is None
    assert ranges(queue.take(5_000_000_000)) == [(5, 0, 4), (1, 0, 4)]
    queued(queue, (20, None), bulk=True)
    queued(queue, (8, None), first=6)
    got = [ranges(queue.take(BULK_PATIENCE_NS)) for _ in range(3)]
    assert got == [[(1, 4, 12)], [(1, 12, 20)], [(6, 0, 8)]]
    assert ranges(queue.take(BULK_PATIENCE_NS)) == [(0, 0, 8)]


def test_rest_of_a_bulk_request_that_waited_long_enough_goes_first() -> None:
    queue = eights()
    queued(queue, (12, None), bulk=True)
    assert ranges(queue.take(0)) == [(0, 0, 8)]
    queued(queue, (8, None), first=5)
    assert ranges(queue.take(BULK_PATIENCE_NS)) == [(0, 8, 12)]


def test_no_other_bulk_request_is_split_while_one_that_waited_long_enough_has_its_turn() -> None:
    queue = eights()
    queued(queue, (12, None), first=5)
    queued(queue, (14, None), bulk=True)
    assert queue.add(entering(9, request_id=1, now_ns=1, bulk=True)) is None
    assert ranges(queue.take(0)) == [(5, 0, 8)]
    got = [ranges(queue.take(BULK_PATIENCE_NS)) for _ in range(3)]
    assert got == [[(5, 8, 12)], [(0, 0, 8)], [(0, 8, 14), (1, 0, 2)]]


def test_bulk_does_not_wait_for_a_fuller_bucket() -> None:
    queue = batcher(ladder=LARGE, settings=Settings(linger_ns=1000))
    queued(queue, (1, None), bulk=True)
    assert ranges(queue.take(0)) == [(0, 0, 1)]


@pytest.mark.parametrize("mode", [Mode.INLINE, Mode.WORKER])
def test_modes_without_sharing_take_bulk_last_and_alone(mode: Mode) -> None:
    queue = batcher(mode, ladder=LARGE)
    queued(queue, (1, None), bulk=True)
    queued(queue, (2, None), first=5)
    assert [ranges(queue.take(0)), ranges(queue.take(0))] == [[(5, 0, 2)], [(0, 0, 1)]]


def test_bulk_expires_and_is_cancelled_like_any_other() -> None:
    queue = batcher(ladder=LARGE, cost=costs(LARGE, {8: 1000}))
    entered = queued(queue, (1, 5), (2, None), bulk=True)
    assert queue.expired(3999) == []
    assert queue.expired(4000) == [entered[0]]
    assert queue.cancel(lambda request: True) == [entered[1]]
    assert queue.pending_rows == 0

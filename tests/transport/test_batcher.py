"""Which requests share a launch, and in what order."""

import pytest

from narsil_transport.admission import PATIENCE_NS
from narsil_transport.batcher import REPLAN_NS, Mode, Settings
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.status import Status
from tests.transport.queueing import LADDER, LAUNCH_NS, ROW_NS, batcher, bucket_rows, costs, entering, queued, ranges
from tests.transport.requests import admitted, limits, multi_hot


def test_empty_queue_gives_no_batch() -> None:
    assert batcher().take(0) is None
    assert batcher().wake_ns(0) is None


def test_one_request_leaves_at_once_in_the_smallest_bucket() -> None:
    queue = batcher()
    queued(queue, (3, None))
    assert queue.wake_ns(5) == 5
    batch = queue.take(0)
    assert ranges(batch) == [(0, 0, 3)]
    assert batch is not None and batch.bucket == Bucket(4, 12) and (batch.rows, batch.ids) == (3, 9)


def test_requests_share_a_batch_until_the_largest_bucket_is_full() -> None:
    queue = batcher()
    queued(queue, (3, None), (5, None), (2, None), (1, None))
    assert ranges(queue.take(0)) == [(0, 0, 3), (1, 0, 5)]
    assert ranges(queue.take(0)) == [(2, 0, 2), (3, 0, 1)]
    assert queue.take(0) is None


def test_request_is_split_where_all_that_is_queued_costs_less_for_it() -> None:
    queue = batcher()
    queued(queue, (3, None), (4, None), (2, None), (1, None))
    # 8 + 2 rows and not 8 + 4.
    assert ranges(queue.take(0)) == [(0, 0, 3), (1, 0, 4), (2, 0, 1)]
    assert ranges(queue.take(0)) == [(2, 1, 2), (3, 0, 1)]


def test_request_is_not_split_where_that_saves_nothing() -> None:
    queue = batcher()
    queued(queue, (3, None), (3, None), (5, None), (2, None))
    # 8 + 8 rows, however they are cut.
    assert ranges(queue.take(0)) == [(0, 0, 3), (1, 0, 3)]


def test_two_small_launches_go_before_a_large_one_that_costs_more() -> None:
    queue = batcher(cost=costs(LADDER, {1: 10, 2: 11, 4: 15, 8: 30}))
    queued(queue, (5, None))
    assert (ranges(queue.take(0)), ranges(queue.take(0))) == ([(0, 0, 4)], [(0, 4, 5)])


def test_bucket_that_costs_as_much_as_a_larger_one_is_not_used() -> None:
    queue = batcher(Mode.WORKER, cost=costs(LADDER, {1: 10, 2: 20, 4: 20, 8: 30}))
    queued(queue, (2, None))
    assert bucket_rows(queue.take(0)) == 4


@pytest.mark.parametrize("mode", [Mode.WORKER, Mode.INLINE])
def test_other_modes_give_each_request_its_own_batch(mode: Mode) -> None:
    queue = batcher(mode)
    queued(queue, (1, None), (1, None))
    assert [ranges(queue.take(0)), ranges(queue.take(0))] == [[(0, 0, 1)], [(1, 0, 1)]]


def test_request_beyond_the_largest_bucket_is_split_and_its_tail_shares() -> None:
    queue = batcher()
    queued(queue, (19, None), (2, None))
    got = [ranges(queue.take(0)) for _ in range(3)]
    assert got == [[(0, 0, 8)], [(0, 8, 16)], [(0, 16, 19), (1, 0, 2)]]


def test_split_request_is_finished_before_a_more_urgent_one_starts() -> None:
    queue = batcher(Mode.WORKER)
    queued(queue, (9, None))
    assert ranges(queue.take(0)) == [(0, 0, 8)]
    queued(queue, (8, 100), first=7)
    assert ranges(queue.take(0)) == [(0, 8, 9)]
    assert ranges(queue.take(0)) == [(7, 0, 8)]


def test_bags_are_split_where_the_ids_run_out() -> None:
    queue = batcher(ladder=BucketLadder((Bucket(8, 5),)))
    lengths = [[1, 1, 0], [3, 0, 0], [0, 0, 0], [4, 0, 0], [2, 0, 0]]
    queue.add(admitted(multi_hot(lengths, [0] * 11), within=limits(ids_per_row_max=5)))
    first, second, third = queue.take(0), queue.take(0), queue.take(0)
    assert [ranges(batch) for batch in (first, second, third)] == [[(1, 0, 3)], [(1, 3, 4)], [(1, 4, 5)]]
    assert [batch.ids for batch in (first, second, third) if batch] == [5, 4, 2]


def test_request_with_many_ids_takes_a_bucket_that_has_room_for_them() -> None:
    queue = batcher(ladder=BucketLadder((Bucket(1, 3), Bucket(2, 6), Bucket(8, 24))))
    queue.add(admitted(multi_hot([[5, 4, 3]], [0] * 12), within=limits(ids_per_row_max=24)))
    assert bucket_rows(queue.take(0)) == 8


def test_rest_of_a_split_request_takes_a_bucket_with_room_for_its_ids() -> None:
    queue = batcher()
    # Of 10 rows, which have room for 30 ids, the last two hold 18.
    lengths = [[0, 0, 0]] * 8 + [[9, 0, 0]] * 2
    queue.add(admitted(multi_hot(lengths, [0] * 18), within=limits(ids_per_row_max=24)))
    assert [bucket_rows(queue.take(0)), bucket_rows(queue.take(0))] == [8, 8]


def test_earliest_deadline_goes_first_and_none_goes_last() -> None:
    queue = batcher(Mode.WORKER)
    queued(queue, (1, None), (1, 30), (1, 10), (1, 30), (1, None))
    order = [ranges(queue.take(0))[0][0] for _ in range(5)]
    assert order == [2, 1, 3, 0, 4]


def test_request_without_deadline_is_due_when_patience_ends() -> None:
    queue = batcher(Mode.WORKER)
    queued(queue, (1, PATIENCE_NS // 1000 + 1), (1, None), (1, PATIENCE_NS // 1000 - 1))
    order = [ranges(queue.take(0))[0][0] for _ in range(3)]
    assert order == [2, 1, 0]


def test_request_expires_when_a_launch_of_its_own_would_end_at_its_deadline() -> None:
    queue = batcher()
    entered = queued(queue, (1, 20), (2, 10), (3, None))
    latest_ns = 10_000 - (LAUNCH_NS + 2 * ROW_NS)
    assert queue.expired(latest_ns - 1) == []
    assert queue.expired(latest_ns) == [entered[1]]
    assert queue.expired(20_000) == [entered[0]]
    assert (queue.pending_rows, queue.pending_requests) == (3, 1)
    assert ranges(queue.take(20_000)) == [(2, 0, 3)]


def test_request_beyond_the_largest_bucket_expires_by_its_cheapest_partition() -> None:
    queue = batcher()
    (entered,) = queued(queue, (9, 10))
    latest_ns = 10_000 - 2 * LAUNCH_NS - 9 * ROW_NS
    assert queue.expired(latest_ns - 1) == []
    assert queue.expired(latest_ns) == [entered]


def test_split_request_no_longer_expires() -> None:
    queue = batcher()
    queued(queue, (9, 3))
    queue.take(0)
    assert queue.expired(1_000_000) == []
    assert (queue.pending_rows, queue.pending_requests) == (1, 1)


def test_full_queue_is_overloaded_until_enough_rows_have_left() -> None:
    queue = batcher(queue_rows_max=4)
    queued(queue, (3, None))
    refusal = queue.add(entering(3))
    assert refusal is not None and refusal.status is Status.OVERLOADED
    assert refusal.retry_after_us == (LAUNCH_NS + 2 * ROW_NS) // 1000
    assert (queue.pending_rows, queue.pending_requests) == (3, 1)
    assert queue.add(entering(1)) is None


def test_bulk_does_not_fill_the_queue_of_interactive_requests() -> None:
    queue = batcher(queue_rows_max=4)
    queued(queue, (4, None), bulk=True)
    assert queue.add(entering(1, bulk=True)) is not None
    assert queue.add(entering(4)) is None


def test_new_ladder_is_used_from_the_next_batch_on() -> None:
    queue = batcher(Mode.WORKER)
    queued(queue, *[(1, None)] * 4)
    taken: list[int] = []
    for ladder in (LADDER.buckets[3:], LADDER.buckets[1:], LADDER.buckets, LADDER.buckets[2:]):
        queue.use(BucketLadder(ladder))
        taken.append(bucket_rows(queue.take(0)))
    assert taken == [8, 2, 1, 4]


def test_new_ladder_takes_the_rest_of_a_split_request() -> None:
    queue = batcher(ladder=BucketLadder(LADDER.buckets[3:]), cost=costs(LADDER))
    (entered,) = queued(queue, (9, None))
    assert not queue.cuts
    assert ranges(queue.take(0)) == [(0, 0, 8)]
    assert queue.cuts == (entered,)
    queue.use(LADDER)
    batch = queue.take(0)
    assert ranges(batch) == [(0, 8, 9)] and bucket_rows(batch) == 1
    assert not queue.cuts


def test_queued_requests_expire_by_the_new_ladder() -> None:
    queue = batcher(ladder=BucketLadder(LADDER.buckets[3:]), cost=costs(LADDER, {1: 10, 2: 20, 4: 30, 8: 3000}))
    (entered,) = queued(queue, (1, 5))
    queue.use(LADDER)
    assert queue.expired(4989) == []
    assert queue.expired(4990) == [entered]


def test_ladder_with_another_largest_bucket_is_no_replacement() -> None:
    with pytest.raises(AssertionError):
        batcher().use(BucketLadder(LADDER.buckets[:3]))


def test_queue_without_room_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="queue_rows_max"):
        batcher(queue_rows_max=0)


@pytest.mark.parametrize("wrong", [{"linger_ns": -1}, {"margin_ns": -1}, {"rows_max": 0}])
def test_settings_out_of_range_cannot_be_built(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="want"):
        Settings(**wrong)


def test_capped_batches_take_the_largest_bucket_within_the_cap() -> None:
    queue = batcher(settings=Settings(rows_max=7))
    queued(queue, (6, None))
    assert [bucket_rows(queue.take(0)), bucket_rows(queue.take(0))] == [4, 2]


def test_cap_below_every_bucket_leaves_the_smallest() -> None:
    queue = batcher(ladder=BucketLadder(LADDER.buckets[1:]))
    queue.tune(Settings(rows_max=1))
    queued(queue, (3, None))
    assert ranges(queue.take(0)) == [(0, 0, 2)]


def test_row_of_more_ids_than_the_cap_has_room_for_leaves_all_the_same() -> None:
    queue = batcher(settings=Settings(rows_max=2))
    queue.add(admitted(multi_hot([[9, 0, 0], [4, 0, 0]], [0] * 13), within=limits(ids_per_row_max=24)))
    assert [(ranges(batch), bucket_rows(batch)) for batch in (queue.take(0), queue.take(0))] == [
        ([(1, 0, 1)], 4),
        ([(1, 1, 2)], 2),
    ]


def test_cancelled_requests_leave_the_queue_but_for_a_split_one() -> None:
    queue = batcher()
    entered = queued(queue, (9, None), (1, None), (2, None))
    queue.take(0)
    assert queue.cancel(lambda request: request is not entered[2]) == [entered[1]]
    assert (queue.pending_rows, queue.pending_requests) == (3, 2)
    assert ranges(queue.take(0)) == [(0, 8, 9), (2, 0, 2)]


def test_batcher_follows_costs_that_drift_but_not_more_often_than_it_may() -> None:
    cost = costs(LADDER, {1: 10, 2: 20, 4: 30, 8: 40})
    queue = batcher(cost=cost)

    def first_bucket(now_ns: int) -> int:
        queued(queue, (5, None))
        rows = bucket_rows(queue.take(now_ns))
        while queue.take(now_ns):
            pass
        return rows

    assert first_bucket(0) == 8
    while cost.launch_ns(LADDER.buckets[3]) < 50:
        cost.observe(LADDER.buckets[3], 60)
        cost.observe(LADDER.buckets[2], 30)
        cost.observe(LADDER.buckets[0], 10)
    assert first_bucket(1) == 4
    while cost.launch_ns(LADDER.buckets[3]) > 38:
        cost.observe(LADDER.buckets[3], 30)
    assert first_bucket(REPLAN_NS) == 4
    assert first_bucket(1 + REPLAN_NS) == 8

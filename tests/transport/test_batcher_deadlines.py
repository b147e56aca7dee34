"""What deadlines do to a batch, to waiting for a fuller one, and to who may enter."""

import pytest

from narsil_transport.batcher import Mode, Settings
from narsil_transport.buckets import BucketLadder
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.status import Status
from tests.transport.queueing import LADDER, batcher, bucket_rows, costs, entering, queued, ranges

# Two rows for less than twice the cost of one, and so on: the larger the cheaper per row.
RISING = {1: 10_000, 2: 16_000, 4: 28_000, 8: 50_000}
MS = 1_000_000


def test_batch_is_smaller_where_the_larger_would_be_too_late_for_its_first() -> None:
    queue = batcher(cost=costs(LADDER, RISING))
    queued(queue, (4, 40), (4, 200))
    assert ranges(queue.take(0)) == [(0, 0, 4)]


def test_batch_is_larger_where_the_smaller_would_be_too_late_for_the_next() -> None:
    queue = batcher(cost=costs(LADDER, RISING))
    queued(queue, (4, 51), (4, 52))
    assert ranges(queue.take(0)) == [(0, 0, 4), (1, 0, 4)]


def test_done_at_the_deadline_is_late() -> None:
    queue = batcher(cost=costs(LADDER, RISING))
    queued(queue, (4, 50), (4, 200))
    assert ranges(queue.take(0)) == [(0, 0, 4)]


def test_request_that_is_late_anyway_does_not_make_the_batch_smaller() -> None:
    queue = batcher(cost=costs(LADDER, RISING))
    queued(queue, (4, 28), (4, 200))
    assert ranges(queue.take(0)) == [(0, 0, 4), (1, 0, 4)]


def test_batch_that_a_split_would_fill_stays_small_where_its_first_would_be_late() -> None:
    queue = batcher(cost=costs(LADDER, RISING))
    queued(queue, (4, 40), (6, 200))
    assert ranges(queue.take(0)) == [(0, 0, 4)]
    # Without that deadline 8 + 2 rows cost less.
    queue = batcher(cost=costs(LADDER, RISING))
    queued(queue, (4, 100), (6, 200))
    assert ranges(queue.take(0)) == [(0, 0, 4), (1, 0, 4)]


def test_rest_of_a_request_without_deadline_hides_no_deadline_behind_it() -> None:
    queue = batcher(cost=costs(LADDER, RISING))
    queued(queue, (10, None))
    queue.take(0)
    queued(queue, (2, 40), (4, 200), first=1)
    # All 8 rows in one launch cost less, but that takes 50 us.
    assert ranges(queue.take(0)) == [(0, 8, 10), (1, 0, 2)]


def test_request_that_expired_is_not_the_oldest_any_more() -> None:
    queue = batcher(settings=Settings(linger_ns=500))
    queue.add(entering(1, 1))
    queue.add(entering(1, now_ns=300))
    assert queue.wake_ns(300) == 300
    assert len(queue.expired(300)) == 1
    assert queue.wake_ns(300) == 800


def test_oldest_request_waits_for_a_fuller_bucket_no_longer_than_the_linger() -> None:
    queue = batcher(settings=Settings(linger_ns=500))
    queue.add(entering(2, now_ns=100))
    queue.add(entering(1, now_ns=300))
    assert queue.take(599) is None
    assert queue.wake_ns(300) == 600
    assert bucket_rows(queue.take(600)) == 4


def test_full_largest_bucket_does_not_wait() -> None:
    queue = batcher(settings=Settings(linger_ns=500))
    queue.add(entering(7))
    assert queue.take(0) is None
    queue.add(entering(2))
    assert queue.wake_ns(0) == 0
    assert bucket_rows(queue.take(0)) == 8


def test_full_cap_does_not_wait() -> None:
    queue = batcher(settings=Settings(linger_ns=500, rows_max=4))
    queue.add(entering(4))
    assert bucket_rows(queue.take(0)) == 4


def test_rest_of_a_split_request_does_not_wait() -> None:
    queue = batcher(settings=Settings(linger_ns=500))
    queued(queue, (9, None))
    assert [ranges(queue.take(0)), ranges(queue.take(0))] == [[(0, 0, 8)], [(0, 8, 9)]]


def test_nothing_waits_until_its_deadline_is_in_danger() -> None:
    cost = CostModel({bucket: LaunchCost(1000, 4000) for bucket in LADDER.buckets[3:]})
    settings = Settings(linger_ns=MS, margin_ns=700)
    queue = batcher(ladder=BucketLadder(LADDER.buckets[3:]), cost=cost, settings=settings)
    queued(queue, (1, None), (1, 20))
    # The 99th percentile of a launch and the margin before the deadline, and not at it.
    assert queue.wake_ns(0) == 20_000 - 4000 - 700 - 1
    assert queue.take(15_298) is None
    assert bucket_rows(queue.take(15_299)) == 8


@pytest.mark.parametrize("mode", [Mode.INLINE, Mode.WORKER])
def test_modes_without_sharing_do_not_wait(mode: Mode) -> None:
    queue = batcher(mode, settings=Settings(linger_ns=500))
    queued(queue, (1, None))
    assert queue.take(0) is not None


def test_prediction_is_the_work_that_is_due_before_and_its_own() -> None:
    queue = batcher(cost=costs(LADDER, RISING))
    queued(queue, (8, 500), (8, 700))
    assert queue.predicted_ns(entering(8, 600), now_ns=0, free_ns=(5000,)) == 105_000
    assert queue.predicted_ns(entering(8, 400), now_ns=9000, free_ns=(5000,)) == 59_000


def test_prediction_counts_what_the_loop_spends_on_each() -> None:
    cost = CostModel({bucket: LaunchCost(1000, 1000) for bucket in LADDER.buckets[3:]}, request_ns=30, reply_ns=7)
    queue = batcher(ladder=BucketLadder(LADDER.buckets[3:]), cost=cost)
    queued(queue, (1, None), (1, None))
    assert queue.predicted_ns(entering(1), now_ns=0, free_ns=(0,)) == 1000 + 3 * 37


def test_prediction_spreads_the_work_ahead_over_the_lanes() -> None:
    queue = batcher(cost=costs(LADDER, RISING))
    queued(queue, *[(8, None)] * 4)
    # 200 us ahead: 60 for the lane that is free now, then 70 each.
    assert queue.predicted_ns(entering(8), now_ns=0, free_ns=(60_000, 0)) == 60_000 + 70_000 + 50_000


def test_prediction_in_modes_without_sharing_adds_launches() -> None:
    queue = batcher(Mode.WORKER, cost=costs(LADDER, RISING))
    queued(queue, (1, None), (3, None), (9, None))
    assert queue.predicted_ns(entering(2), now_ns=0, free_ns=(0,)) == 10_000 + 28_000 + 60_000 + 16_000


def test_prediction_for_bulk_comes_after_everything_interactive() -> None:
    queue = batcher(cost=costs(LADDER, RISING))
    queued(queue, (8, None))
    queued(queue, (8, None), bulk=True)
    assert queue.predicted_ns(entering(8), now_ns=0, free_ns=(0,)) == 100_000
    assert queue.predicted_ns(entering(8, bulk=True), now_ns=0, free_ns=(0,)) == 150_000


def test_request_that_would_miss_is_told_when_it_would_be_done_and_when_to_come_again() -> None:
    queue = batcher(cost=costs(LADDER, RISING), settings=Settings(margin_ns=40_000))
    queued(queue, (8, 90))
    refusal = queue.refuse_late(entering(8, 95, now_ns=1000), now_ns=1000, free_ns=(0,))
    assert refusal is not None and refusal.status is Status.WOULD_MISS
    assert refusal.predicted_us == 100
    assert refusal.retry_after_us == 100 + 40 - 95 + 1


@pytest.mark.parametrize(("budget_us", "enters"), [(149, False), (151, True), (10_000, True)])
def test_request_that_has_to_wait_needs_a_third_of_its_budget_or_a_launch_left_over(
    budget_us: int, enters: bool
) -> None:
    queue = batcher(cost=costs(LADDER, RISING))
    queued(queue, (8, 90))
    # It would be done after 100 us.
    assert (queue.refuse_late(entering(8, budget_us), now_ns=0, free_ns=(0,)) is None) is enters


def test_request_that_no_idle_server_answers_in_time_is_not_told_to_come_again() -> None:
    refusal = batcher(cost=costs(LADDER, RISING)).refuse_late(entering(8, 50), now_ns=0, free_ns=(0,))
    assert refusal is not None and refusal.retry_after_us is None


def test_request_that_is_in_time_by_more_than_the_margin_enters() -> None:
    queue = batcher(cost=costs(LADDER, RISING), settings=Settings(margin_ns=999))
    assert queue.refuse_late(entering(8, 51), now_ns=0, free_ns=(0,)) is None
    assert queue.refuse_late(entering(8), now_ns=0, free_ns=(10**12,)) is None

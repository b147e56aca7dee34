"""The cheapest way to launch n rows, against all ways."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.launch_plan import TABLE_ROWS_MIN, LaunchPlan

SIZES = st.dictionaries(st.integers(1, 30), st.integers(1, 60), min_size=1, max_size=5)


def planned(launches_ns: dict[int, int]) -> LaunchPlan:
    ladder = BucketLadder.from_rows(sorted(launches_ns), ids_per_row=1)
    return LaunchPlan(ladder, CostModel({b: LaunchCost(launches_ns[b.rows], 10**9) for b in ladder.buckets}))


def cheapest_ns(launches_ns: dict[int, int], rows: int) -> int:
    """The least cost of launches with room for this many rows, by trying each bucket as the first."""

    @cache
    def of(rows: int) -> int:
        return 0 if rows <= 0 else min(cost_ns + of(rows - size) for size, cost_ns in launches_ns.items())

    return of(rows)


def launched(plan: LaunchPlan, rows: int) -> list[Bucket]:
    """The buckets that the plan launches, one after the other."""
    buckets: list[Bucket] = []
    while rows > 0:
        buckets.append(plan.bucket(rows))
        rows -= buckets[-1].rows
    return buckets


def per_row(launches_ns: dict[int, int], buckets: Sequence[Bucket]) -> list[Fraction]:
    return [Fraction(launches_ns[bucket.rows], bucket.rows) for bucket in buckets]


@given(SIZES, st.integers(1, 120))
def test_work_is_that_of_the_cheapest_partition(launches_ns: dict[int, int], rows: int) -> None:
    assert planned(launches_ns).work_ns(rows) == cheapest_ns(launches_ns, rows)


@given(SIZES, st.integers(1, 120))
def test_buckets_are_those_of_a_cheapest_partition(launches_ns: dict[int, int], rows: int) -> None:
    buckets = launched(planned(launches_ns), rows)
    assert sum(launches_ns[bucket.rows] for bucket in buckets) == cheapest_ns(launches_ns, rows)
    assert sum(bucket.rows for bucket in buckets) >= rows


@given(SIZES, st.integers(1, 120))
def test_bucket_of_least_cost_per_row_goes_first(launches_ns: dict[int, int], rows: int) -> None:
    costs = per_row(launches_ns, launched(planned(launches_ns), rows))
    assert costs == sorted(costs)


@given(SIZES, st.integers(TABLE_ROWS_MIN - 40, 3 * TABLE_ROWS_MIN))
def test_many_rows_cost_at_most_a_launch_more_than_by_the_row(launches_ns: dict[int, int], rows: int) -> None:
    plan = planned(launches_ns)
    least_ns = min(per_row(launches_ns, plan.ladder.buckets))
    assert sum(launches_ns[bucket.rows] for bucket in launched(plan, rows)) == plan.work_ns(rows)
    assert least_ns * rows <= plan.work_ns(rows) <= least_ns * rows + max(launches_ns.values())


def test_no_rows_are_no_work() -> None:
    assert planned({4: 10}).work_ns(0) == 0


def test_bucket_that_costs_no_less_than_a_larger_one_is_left_out() -> None:
    plan = planned({1: 5, 2: 9, 4: 9, 8: 20, 16: 19})
    assert plan.rows == [1, 4, 16]
    assert plan.ladder.buckets[-1] == Bucket(16, 16)


def test_request_alone_takes_the_smallest_bucket_with_room_or_its_partition() -> None:
    ladder = BucketLadder((Bucket(1, 3), Bucket(4, 12), Bucket(8, 24)))
    plan = LaunchPlan(ladder, CostModel({b: LaunchCost(100 + b.rows, 10**9) for b in ladder.buckets}))
    assert [plan.alone_ns(3, 9), plan.alone_ns(3, 13), plan.alone_ns(9, 27), plan.alone_ns(1, 48)] == [
        104,
        108,
        209,
        216,
    ]


def test_many_ids_count_as_the_rows_of_the_largest_bucket_that_they_fill() -> None:
    plan = LaunchPlan(BucketLadder((Bucket(8, 24),)), CostModel({Bucket(8, 24): LaunchCost(1, 1)}))
    assert [plan.size(2, 6), plan.size(2, 7), plan.size(2, 0)] == [2, 3, 2]


def test_unmeasured_bucket_cannot_be_planned_with() -> None:
    with pytest.raises(KeyError):
        LaunchPlan(BucketLadder((Bucket(8, 24),)), CostModel({}))

"""The planner finds the cheapest ladder: brute force over every subset of the sizes says so."""

import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narsil_graph.errors import Failure
from narsil_graph.ladder_search import Sizes, cheapest
from narsil_graph.planner import CostCurve, Histogram, assess, expected_us, plan_ladder, power_of_two_ladder
from narsil_transport.buckets import Bucket, BucketLadder

AFFINE = CostCurve(np.array([1, 64, 512]), np.array([100.0, 163.0, 611.0]))


def counted(requests: dict[int, int], rows_max: int | None = None) -> Histogram:
    """So many requests of each number of rows, with one id a row."""
    rows = np.repeat(np.array([*requests]), [*requests.values()])
    return Histogram.of(rows, rows, rows_max=rows_max)


def rows_of(ladder: BucketLadder) -> list[int]:
    return [bucket.rows for bucket in ladder.buckets]


def least(sizes: Sizes, boundaries_max: int, weight_max: float) -> float:
    """The cost of the cheapest of all choices, infinite where none is light enough."""
    last, best = len(sizes.costs) - 1, np.inf
    for count in range(boundaries_max):
        for chosen in combinations(range(last), count):
            if sizes.weights[[*chosen, last]].sum() <= weight_max:
                best = min(best, cost_of(sizes, [*chosen, last]))
    return float(best)


def cost_of(sizes: Sizes, chosen: list[int]) -> float:
    taken = np.searchsorted(chosen, np.arange(len(sizes.costs)))
    return float(sizes.costs[chosen][taken] @ sizes.counts)


@st.composite
def small_sizes(draw: st.DrawFn) -> Sizes:
    count = draw(st.integers(1, 9))

    def numbers(least: int, most: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        return np.array(draw(st.lists(st.integers(least, most), min_size=count, max_size=count)), np.float64)

    return Sizes(np.sort(numbers(1, 30)), numbers(0, 5), numbers(0, 9))


@settings(max_examples=200, deadline=None)
@given(small_sizes(), st.integers(1, 5))
def test_no_choice_of_boundaries_is_cheaper(sizes: Sizes, boundaries_max: int) -> None:
    chosen = cheapest(sizes, boundaries_max=boundaries_max)
    assert chosen is not None and len(chosen) <= boundaries_max
    assert cost_of(sizes, chosen) == pytest.approx(least(sizes, boundaries_max, np.inf))


@settings(max_examples=400, deadline=None)
@given(small_sizes(), st.integers(1, 5), st.integers(0, 25))
def test_no_choice_that_is_light_enough_is_cheaper(sizes: Sizes, boundaries_max: int, weight_max: int) -> None:
    chosen = cheapest(sizes, boundaries_max=boundaries_max, weight_max=weight_max)
    if chosen is None:
        assert least(sizes, boundaries_max, weight_max) == np.inf
    else:
        assert len(chosen) <= boundaries_max and sizes.weights[chosen].sum() <= weight_max
        assert cost_of(sizes, chosen) == pytest.approx(least(sizes, boundaries_max, weight_max))


def test_boundaries_across_blocks_of_the_table_are_as_cheap_as_without_blocks() -> None:
    rng = np.random.default_rng(0)
    costs, counts = np.sort(rng.uniform(0.1, 1.1, 300)), rng.integers(0, 4, 300).astype(np.float64)
    before = np.concatenate([[0.0], np.cumsum(counts)])
    served = costs[None, :] * (before[None, 1:] - before[:-1, None])
    served[np.tri(300, 300, -1, bool)] = np.inf
    rest = np.append(np.full(300, np.inf), 0.0)
    for _ in range(6):
        rest = np.append((served + rest[1:]).min(1), 0.0)
    sizes = Sizes(costs, counts, np.zeros(300))
    chosen = cheapest(sizes, boundaries_max=6)
    assert chosen is not None
    assert cost_of(sizes, chosen) == pytest.approx(rest[0])


def test_two_thousand_sizes_and_sixteen_buckets_are_planned_in_half_a_second() -> None:
    rng = np.random.default_rng(0)
    sizes = Sizes(np.linspace(130, 15_000, 2000), rng.integers(1, 100, 2000).astype(np.float64), np.zeros(2000))
    begin = time.process_time()
    assert cheapest(sizes, boundaries_max=16) is not None
    assert time.process_time() - begin < 0.5


@st.composite
def histograms(draw: st.DrawFn) -> Histogram:
    sizes = draw(st.dictionaries(st.integers(1, 70), st.integers(1, 50), min_size=1, max_size=12))
    return counted(sizes, draw(st.none() | st.integers(max(sizes), 80)))


@settings(max_examples=200, deadline=None)
@given(histograms(), st.integers(1, 8), st.lists(st.floats(1, 9), min_size=4, max_size=4))
def test_plan_is_never_worse_than_powers_of_two(histogram: Histogram, buckets_max: int, us: list[float]) -> None:
    curve = CostCurve(np.array([1, 9, 30, 64]), np.array(us))
    plain = power_of_two_ladder(histogram, features=1, buckets_max=buckets_max)
    best = plan_ladder(histogram, curve, features=1, buckets_max=len(plain.buckets))
    assert len(best.buckets) <= len(plain.buckets)
    assert best.rows_max == plain.rows_max == histogram.rows_max
    assert expected_us(best, histogram, curve) <= expected_us(plain, histogram, curve) * (1 + 1e-9)


@settings(max_examples=100, deadline=None)
@given(histograms(), st.integers(1, 6), st.sets(st.integers(1, 80), max_size=5))
def test_boundaries_at_other_sizes_than_the_observed_are_no_cheaper(
    histogram: Histogram, others: int, rows: set[int]
) -> None:
    any_rows = sorted({size for size in rows if size < histogram.rows_max} | {histogram.rows_max})
    ladder = BucketLadder.from_rows(any_rows, ids_per_row=1)
    best = plan_ladder(histogram, AFFINE, features=1, buckets_max=len(any_rows))
    assert expected_us(best, histogram, AFFINE) <= expected_us(ladder, histogram, AFFINE) * (1 + 1e-9)


def test_ladder_covers_what_must_be_covered_though_nobody_asked_for_it() -> None:
    assert rows_of(plan_ladder(counted({10: 5, 20: 1}, 100), AFFINE, features=1, buckets_max=2)) == [20, 100]


def test_as_many_buckets_as_sizes_leave_no_padding() -> None:
    histogram = counted({3: 4, 17: 1, 40: 2})
    plan = assess(plan_ladder(histogram, AFFINE, features=1, buckets_max=16), histogram, AFFINE)
    assert rows_of(plan.ladder) == [3, 17, 40]
    assert (plan.padded_rows, plan.over_ideal) == (0, 0)


def test_buckets_that_save_nothing_are_left_out() -> None:
    flat = CostCurve(np.array([1, 64]), np.array([50.0, 50.0]))
    assert rows_of(plan_ladder(counted({1: 7, 5: 3, 64: 1}), flat, features=1, buckets_max=3)) == [64]


def test_bucket_has_room_for_the_ids_of_every_request_of_no_more_rows() -> None:
    histogram = Histogram.of(np.array([2, 2, 4, 8]), np.array([3, 30, 5, 16]))
    assert histogram.ladder(np.array([1, 2, 4, 8]), features=3).buckets == (
        *(Bucket(1, 3), Bucket(2, 30)),
        *(Bucket(4, 30), Bucket(8, 30)),
    )


def test_larger_request_counts_as_the_launches_that_it_is_split_into() -> None:
    histogram = Histogram.of(np.array([4, 25]), np.array([8, 50]), rows_max=10)
    assert histogram.rows.tolist() == [4, 5, 10]
    assert histogram.counts.tolist() == [1, 1, 2]
    assert histogram.ids_max.tolist() == [8, 10, 20]


def test_request_of_whole_launches_leaves_no_remainder() -> None:
    histogram = Histogram.of(np.array([20]), np.array([20]), rows_max=10)
    assert (histogram.rows.tolist(), histogram.counts.tolist()) == ([10], [2])


def test_plain_ladder_is_powers_of_two_to_what_must_be_covered() -> None:
    assert rows_of(power_of_two_ladder(counted({5: 1, 64: 1}), features=1, buckets_max=16)) == [1, 2, 4, 8, 16, 32, 64]
    assert rows_of(power_of_two_ladder(counted({70: 1}), features=1, buckets_max=3)) == [32, 64, 70]
    assert rows_of(power_of_two_ladder(counted({1: 1}), features=1, buckets_max=3)) == [1]


def test_costs_are_linear_between_measurements_and_beyond_them() -> None:
    curve = CostCurve(np.array([2, 4, 8]), np.array([10.0, 20.0, 60.0]))
    assert curve.at(np.array([1, 2, 3, 6, 8, 12])).tolist() == [10, 10, 15, 40, 60, 100]


def test_costs_that_decrease_are_filled_up() -> None:
    assert CostCurve(np.array([1, 2, 4]), np.array([5.0, 9.0, 7.0])).at(np.array([1, 2, 4])).tolist() == [5, 9, 9]


def test_costs_are_not_guessed_beyond_twice_the_measured() -> None:
    assert AFFINE.at(np.array([1024])).tolist() == [1123]
    with pytest.raises(Failure, match=r"cover 1025 rows by costs that were measured to 512: .* --rows-max 1024$"):
        plan_ladder(counted({1025: 1}), AFFINE, features=1, buckets_max=4)


def test_memory_that_binds_is_kept_and_used_best() -> None:
    histogram = counted({8: 100, 16: 90, 32: 80, 64: 1})
    # Room for 64 and 32 more: 32 saves more requests their padding than 8 and 16 together.
    ladder = plan_ladder(
        histogram,
        AFFINE,
        features=1,
        buckets_max=4,
        memory=lambda bucket: bucket.rows,
        memory_max_bytes=100,
        fixed_bytes=4,
    )
    tried = [[*chosen, 64] for count in range(3) for chosen in combinations([8, 16, 32], count) if sum(chosen) <= 32]
    costs = [expected_us(BucketLadder.from_rows(rows, ids_per_row=1), histogram, AFFINE) for rows in tried]
    assert sum(rows_of(ladder)) <= 96
    assert expected_us(ladder, histogram, AFFINE) == pytest.approx(min(costs))


def test_memory_too_small_for_one_bucket_is_a_failure() -> None:
    with pytest.raises(
        Failure, match=r"^2\.0 MiB of memory are less than the 3\.0 MiB that one bucket of 64 rows needs$"
    ):
        plan_ladder(
            counted({8: 1, 64: 1}),
            AFFINE,
            features=1,
            buckets_max=4,
            memory=lambda bucket: 2 * 2**20,
            memory_max_bytes=2 * 2**20,
            fixed_bytes=2**20,
        )


def test_request_split_over_cheaper_launches_costs_their_sum() -> None:
    curve = CostCurve(np.array([1, 4, 64]), np.array([1.0, 2.0, 100.0]))
    plan = assess(BucketLadder.from_rows([4, 64], ids_per_row=1), counted({8: 1}), curve)
    assert (plan.expected_us, plan.split_us) == (100, 4)


@pytest.mark.parametrize(
    ("rows", "us"), [([], []), ([1, 2], [1.0]), ([2, 2], [1.0, 2.0]), ([0, 1], [1.0, 2.0]), ([1], [0.0])]
)
def test_what_is_no_curve_cannot_be_made_one(rows: list[int], us: list[float]) -> None:
    with pytest.raises(ValueError, match="want"):
        CostCurve(np.array(rows, np.int64), np.array(us))


def test_no_buckets_cannot_be_planned() -> None:
    with pytest.raises(ValueError, match="at least one bucket"):
        plan_ladder(counted({8: 1}), AFFINE, features=1, buckets_max=0)

"""What is counted of each variant: latencies in bins, and how far two models' scores are apart."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from narsil_graph.variants_tally import RANKED_ROWS_MAX, Agreement, Histogram, Tally
from narsil_transport.messages import StageTimes

SCORES = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=RANKED_ROWS_MAX)


def told(*pairs: tuple[list[float], list[float]]) -> dict[str, Any]:
    agreement = Agreement()
    for ours, theirs in pairs:
        agreement.add(np.array(ours, np.float32), np.array(theirs, np.float32))
    return agreement.to_dict()


def histogram_of(*times_us: float) -> dict[str, Any]:
    histogram = Histogram()
    for time_us in times_us:
        histogram.add(time_us)
    return histogram.to_dict()


@given(st.lists(st.floats(0, 1e7), min_size=1))
def test_percentiles_are_an_eighth_low_at_most(times_us: list[float]) -> None:
    got = histogram_of(*times_us)
    assert (got["count"], got["max"]) == (len(times_us), max(times_us))
    assert sum(count for _, count in got["histogram"]) == len(times_us)
    for percent in (50, 90, 99):
        exact = float(np.percentile(times_us, percent, method="inverted_cdf"))
        assert got[f"p{percent}"] <= exact < got[f"p{percent}"] * 9 / 8 + 1


def test_histogram_is_exact_below_16_microseconds_and_has_a_few_bins_an_octave() -> None:
    assert histogram_of(*range(16))["histogram"] == [(us, 1) for us in range(16)]
    assert [least for least, _ in histogram_of(*range(1024, 2048))["histogram"]] == [*range(1024, 2048, 128)]


def test_histogram_of_nothing_is_all_0() -> None:
    assert histogram_of() == {"count": 0, "p50": 0, "p90": 0, "p99": 0, "max": 0.0, "histogram": []}


def test_time_before_the_clock_s_beginning_counts_as_0() -> None:
    assert histogram_of(-3.0)["histogram"] == [(0, 1)]


def test_tally_counts_requests_rows_scores_and_the_time_of_the_launch() -> None:
    tally = Tally("B")
    assert "score_mean" not in tally.to_dict()
    times = StageTimes(1000.0, 3.0, 9.0, 1000.0, 5000.0)
    tally.scored(np.array([0.25, 0.75], np.float32), times)
    tally.scored(np.array([0.5], np.float32), times)
    got = tally.to_dict()
    assert (got["requests"], got["rows"], got["score_mean"]) == (2, 3, 0.5)
    launch = got["launch_us"]
    assert isinstance(launch, dict) and (launch["p50"], launch["count"]) == (12, 2)


def test_scores_that_are_no_numbers_are_left_out_of_the_mean() -> None:
    tally = Tally("B")
    times = StageTimes(0.0, 0.0, 0.0, 0.0, 0.0)
    tally.scored(np.array([float("nan"), 0.5], np.float32), times)
    assert "score_mean" not in tally.to_dict()
    tally.scored(np.array([0.25, 0.75], np.float32), times)
    got = tally.to_dict()
    assert (got["requests"], got["rows"], got["score_mean"]) == (2, 4, 0.5)


@given(SCORES, st.randoms(use_true_random=False))
def test_rank_agreement_is_the_share_of_pairs_in_the_same_order(ours: list[float], random: Any) -> None:
    theirs = [float(random.randrange(6)) for _ in ours]
    count = len(ours)
    ordered = [(i, j) for i in range(count) for j in range(count) if i != j]
    same = sum((ours[i] < ours[j]) == (theirs[i] < theirs[j]) for i, j in ordered)
    got = told((ours, theirs))
    assert got.get("rank_agreement") == (same / len(ordered) if ordered else None)


def test_differences_are_over_all_rows_of_all_requests() -> None:
    got = told(([0.5, 0.25], [0.5, 0.5]), ([0.0], [0.5]))
    assert (got["requests"], got["rows"], got["score_max_diff"], got["score_mean_diff"]) == (2, 3, 0.5, 0.25)


@pytest.mark.parametrize(
    ("ours", "theirs", "kept"),
    [([1, 2], [5, 9], 1.0), ([1, 2], [9, 5], 0.0), ([2, 2, 1], [5, 9, 1], 1.0), ([3], [4], 1.0)],
)
def test_top_is_kept_where_the_others_best_row_is_as_good_as_ours(
    ours: list[float], theirs: list[float], kept: float
) -> None:
    assert told((ours, theirs))["top_kept"] == kept


def test_rows_without_a_finite_difference_are_counted_and_left_out() -> None:
    nan, infinite = float("nan"), float("inf")
    got = told(([nan, infinite, 1.0, 0.5], [0.0, infinite, nan, 1.0]))
    assert (got["rows"], got["rows_nonfinite"], got["score_max_diff"], got["score_mean_diff"]) == (4, 3, 0.5, 0.5)


def test_nothing_is_said_of_what_was_not_compared() -> None:
    assert told() == {"requests": 0, "rows": 0, "rows_nonfinite": 0}
    assert "rank_agreement" not in told(([1.0], [2.0]))


def test_large_requests_are_ranked_by_some_of_their_rows() -> None:
    rows = 4096
    ours: NDArray[np.float32] = np.arange(rows, dtype=np.float32)
    agreement = Agreement()
    agreement.add(ours, ours[::-1].copy())
    got = agreement.to_dict()
    assert (got["rows"], got["rank_agreement"], got["top_kept"]) == (rows, 0.0, 0.0)

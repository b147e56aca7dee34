"""The sentences of a comparison, and when it says nothing."""

import pytest

from narsil_graph.bench.agreement import Agreement
from narsil_graph.bench.bootstrap import Interval
from narsil_graph.bench.verdict import (
    Tolerance,
    agreement_sentence,
    failed_sentence,
    noise,
    noisy_sentence,
    ratio_sentence,
)

TOLERANCE = Tolerance(margin=0.01, resolution=0.05)
FASTER = {"p50": Interval(0.8, 0.7, 0.9)}
APART = Agreement(requests=2, rows=9, score_max_diff=0.25, score_mean_diff=0.125, rank_agreement=0.75, top1_kept=0.5)
ROUNDED = Agreement(requests=2, rows=9, score_max_diff=1e-7, score_mean_diff=1e-8, rank_agreement=1.0, top1_kept=1.0)
EXACT = Agreement(requests=2, rows=9, score_max_diff=0.0, score_mean_diff=0.0, rank_agreement=1.0, top1_kept=1.0)


def test_sentence_has_ratio_interval_and_blocks() -> None:
    said = ratio_sentence("p99", Interval(0.81, 0.77, 0.86), 24)
    assert said == "B's p99 is 0.810x A's, 95% CI 0.770-0.860, 24 blocks: better."


@pytest.mark.parametrize(
    ("name", "interval", "judged"),
    [
        ("p50", Interval(1.2, 1.1, 1.3), "worse"),
        ("cpu", Interval(0.9, 0.8, 0.95), "better"),
        ("throughput", Interval(1.2, 1.1, 1.3), "better"),
        ("throughput", Interval(0.9, 0.8, 0.95), "worse"),
        ("p99", Interval(1.1, 0.9, 1.3), "no difference was seen"),
    ],
)
def test_only_an_interval_without_1_is_judged(name: str, interval: Interval, judged: str) -> None:
    assert ratio_sentence(name, interval, 4).endswith(f": {judged}.")


@pytest.mark.parametrize("of_equals", [Interval(1.05, 1.02, 1.08), Interval(0.95, 0.92, 0.98)])
def test_a_that_differs_from_itself_is_noise(of_equals: Interval) -> None:
    assert noise(of_equals, TOLERANCE) == f"A against A is {of_equals}."


def test_difference_within_the_margin_is_none() -> None:
    assert noise(Interval(1.008, 1.005, 1.011), TOLERANCE) is None


def test_interval_wider_than_the_resolution_is_noise() -> None:
    why = noise(Interval(1.0, 0.9, 1.1), TOLERANCE)
    assert why is not None and "uncertain by more than 5.0%" in why
    assert noisy_sentence("p99", why).startswith("B's p99: too noisy to say.")


def test_faster_b_with_other_scores_is_called_so() -> None:
    said = agreement_sentence(APART, FASTER)
    assert said.startswith("B is faster, but does not answer the same: scores differ by at most 0.25 (mean 0.12)")
    assert "75.000% of pairs keep their order, 50.0% of requests their best row" in said


def test_more_throughput_is_faster_too() -> None:
    assert agreement_sentence(APART, {"throughput": Interval(1.2, 1.1, 1.3)}).startswith("B is faster, but")


def test_slower_b_with_other_scores_is_not_called_faster() -> None:
    assert agreement_sentence(APART, {"p50": Interval(1.2, 1.1, 1.3)}).startswith("B's scores differ")


def test_rounding_is_not_another_model() -> None:
    assert agreement_sentence(ROUNDED, FASTER).endswith("rounding.")


def test_equal_scores_are_called_equal() -> None:
    assert agreement_sentence(EXACT, FASTER) == "B's scores are A's, bit for bit, in 9 rows of 2 requests."


def test_scores_that_nobody_compared_are_called_so() -> None:
    assert "not compared" in agreement_sentence(None, FASTER)


def test_requests_without_scores_are_told() -> None:
    said = failed_sentence("B", {"OK": 90, "OVERLOADED": 8, "LOST": 2})
    assert said == "B left 10.00% of its requests without scores: 2 LOST, 8 OVERLOADED."


def test_nothing_is_told_where_all_have_scores() -> None:
    assert failed_sentence("A", {"OK": 90}) is None


def test_tolerance_is_a_share() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Tolerance(margin=0.01, resolution=5.0)

"""Conditions: what can be asked, and when they hold."""

import pytest

from narsil_graph.bench.bootstrap import Interval
from narsil_graph.bench.fail_if import parse_condition
from narsil_graph.errors import UsageFailure

RATIOS = {"p99": Interval(1.08, 1.04, 1.12), "throughput": Interval(0.95, 0.93, 0.97)}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("p99 > 1.03", True),
        ("p99 > 1.05", False),
        ("p99 > 1.2", False),
        ("p99 < 1.13", True),
        ("p99 < 1.05", False),
        ("throughput < 0.98", True),
        ("throughput<0.96", False),
    ],
)
def test_ratio_must_be_beyond_the_bound_with_its_whole_interval(text: str, holds: bool) -> None:
    assert parse_condition(text).holds(RATIOS, {}) is holds


@pytest.mark.parametrize(("text", "holds"), [("score_max_diff > 1e-5", True), ("score_max_diff > 1e-3", False)])
def test_scores_are_compared_as_they_are(text: str, holds: bool) -> None:
    assert parse_condition(text).holds({}, {"score_max_diff": 1e-4}) is holds


@pytest.mark.parametrize("text", ["p50 > 1.05", "rank_agreement < 1"])
def test_what_was_not_measured_cannot_be_said(text: str) -> None:
    assert parse_condition(text).holds(RATIOS, {}) is None


def test_condition_reads_as_it_was_written() -> None:
    assert str(parse_condition(" score_max_diff>1e-5 ")) == "score_max_diff > 1e-05"


@pytest.mark.parametrize("text", ["", "p99", "p99 >", "p98 > 1.05", "p99 >= 1.05", "p99 > -1", "p99 > 1.05 or p50 > 2"])
def test_anything_else_is_refused_with_the_names(text: str) -> None:
    with pytest.raises(UsageFailure, match=r"a NAME of p50, p99, throughput, cpu, score_max_diff, "):
        parse_condition(text)

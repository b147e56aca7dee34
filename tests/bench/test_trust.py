"""What trust.py counts of the comparisons that it has run."""

import math

import pytest

from benchmarks import trust
from narsil_graph.bench.ab_report import Verdict
from narsil_graph.bench.bootstrap import Interval

ONE = Interval(1.0, 0.99, 1.01)
ABOVE, BELOW = Interval(1.05, 1.02, 1.08), Interval(0.95, 0.92, 0.98)


def verdict(*, check: Interval = ONE, found: Interval = ONE, noisy: tuple[str, ...] = ()) -> Verdict:
    """The same intervals of every ratio."""
    return Verdict(
        check=dict.fromkeys(trust.RATIOS, check),
        found=dict.fromkeys(trust.RATIOS, found),
        noisy=dict.fromkeys(noisy, "too wide"),
        agreement=None,
        conditions=(),
        blocks=12,
        check_blocks=12,
    )


def row(name: str, *verdicts: Verdict) -> dict[str, object]:
    return next(row for row in trust.rows(list(verdicts)) if row["ratio"] == name)


@pytest.mark.parametrize(
    ("interval", "contained"),
    [(ONE, True), (Interval(1.0, 1.0, 1.1), True), (Interval(1.0, 0.9, 1.0), True), (ABOVE, False), (BELOW, False)],
)
def test_interval_contains_one_up_to_its_ends(interval: Interval, contained: bool) -> None:
    assert trust.contains_one(interval) is contained


@pytest.mark.parametrize(("name", "slower"), [("p50", ABOVE), ("p99", ABOVE), ("throughput", BELOW)])
def test_slower_is_more_latency_and_less_throughput(name: str, slower: Interval) -> None:
    faster = BELOW if slower is ABOVE else ABOVE
    assert trust.found_slower(name, slower)
    assert not trust.found_slower(name, faster)
    assert not trust.found_slower(name, ONE)


def test_equals_are_counted_of_all_runs() -> None:
    verdicts = verdict(), verdict(check=ABOVE), verdict(check=BELOW), verdict(noisy=("p50",))
    assert row("p50", *verdicts)["A/A contains 1"] == "2 of 4"


def test_slower_ones_are_counted_of_the_runs_that_were_not_too_noisy() -> None:
    verdicts = verdict(found=ABOVE), verdict(), verdict(found=ABOVE, noisy=("p50",))
    p50 = row("p50", *verdicts)
    assert (p50["too noisy to say"], p50["B found slower"]) == (1, "1 of 2")
    assert p50["B/A, median of runs"] == pytest.approx(1.025)
    assert row("p99", *verdicts)["B found slower"] == "2 of 3"


def test_ratio_that_was_always_too_noisy_has_no_median() -> None:
    p99 = row("p99", verdict(found=ABOVE, noisy=("p99",)))
    assert p99["B found slower"] == "0 of 0"
    assert isinstance(p99["B/A, median of runs"], float) and math.isnan(p99["B/A, median of runs"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--seconds", "5"], "want --seconds"),
        (["--runs", "0"], "want a run at least"),
        (["--percent", "nan"], "a percent above 0"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_a_server_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    monkeypatch.setattr("sys.argv", ["trust.py", *arguments])
    with pytest.raises(SystemExit):
        trust.parsed()
    assert sentence in capsys.readouterr().err

"""Intervals cover the truth as often as they say, and are narrow enough to see what matters."""

from collections.abc import Callable

import numpy as np
import pytest

from narsil_graph.bench import bootstrap
from narsil_graph.bench.bootstrap import ROUNDS_MIN, Floats64, Interval, ratio_interval

RUNS = 300
Noise = Callable[[np.random.Generator, int], Floats64]
# How far a round's log ratio scatters on a machine that others use: what was seen on two shared cores.
ROUND_NOISE = 0.05


def normal(rng: np.random.Generator, rounds: int) -> Floats64:
    return ROUND_NOISE * rng.standard_normal(rounds)


def heavy(rng: np.random.Generator, rounds: int) -> Floats64:
    return ROUND_NOISE * rng.standard_t(3, rounds)


def disturbed(rng: np.random.Generator, rounds: int) -> Floats64:
    """One round in ten has a neighbour in it, that slows either."""
    return normal(rng, rounds) + 0.4 * rng.choice([-1.0, 0.0, 1.0], rounds, p=[0.05, 0.9, 0.05])


def skewed(rng: np.random.Generator, rounds: int) -> Floats64:
    """A's and B's own times are skewed alike, as latencies are."""
    return 2 * ROUND_NOISE * (rng.exponential(1.0, rounds) - rng.exponential(1.0, rounds))


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 800)


def intervals(noise: Noise, rounds: int, truth: float) -> list[Interval]:
    rng = np.random.default_rng(2)
    return [ratio_interval(np.log(truth) + noise(rng, rounds), seed) for seed in range(RUNS)]


@pytest.mark.parametrize("rounds", [ROUNDS_MIN, 12, 24])
@pytest.mark.parametrize("noise", [normal, heavy, disturbed, skewed])
def test_interval_covers_the_truth_in_95_of_100_runs(noise: Noise, rounds: int) -> None:
    covering = [its.low <= 0.9 <= its.high for its in intervals(noise, rounds, 0.9)]
    # Less two standard errors of so many runs: 1.3% each.
    assert np.mean(covering) >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / RUNS)


def test_slow_down_of_5_percent_is_seen_in_9_of_10_runs() -> None:
    assert np.mean([its.low > 1 for its in intervals(normal, 20, 1.05)]) >= 0.9


def test_disturbed_rounds_hide_no_slow_down_of_10_percent() -> None:
    assert np.mean([its.low > 1 for its in intervals(disturbed, 30, 1.10)]) >= 0.9


def test_same_seed_gives_the_same_interval() -> None:
    ratios = normal(np.random.default_rng(0), 12)
    assert ratio_interval(ratios, 3) == ratio_interval(ratios, 3) != ratio_interval(ratios, 4)


def test_rounds_that_agree_exactly_leave_no_doubt() -> None:
    found = ratio_interval(np.full(8, np.log(2.0)), 0)
    assert (found.low, found.ratio, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_rounds_that_agree_but_for_two_leave_their_doubt() -> None:
    found = ratio_interval(np.log([1.0] * 10 + [0.9, 1.1]), 0)
    assert found.low < 0.95 < 1.05 < found.high


def test_mostly_equal_rounds_have_an_interval_within_what_was_seen() -> None:
    found = ratio_interval(np.log([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.2]), 0)
    assert 0.8 < found.low < 1.0 < found.high <= 1.2


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match=f"want {ROUNDS_MIN} rounds at least, got 5"):
        ratio_interval(np.zeros(5), 0)


def test_interval_must_hold_its_ratio() -> None:
    with pytest.raises(ValueError, match="low <= ratio"):
        Interval(1.0, 1.1, 1.2)

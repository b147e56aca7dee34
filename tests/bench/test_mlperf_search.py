"""The highest load is confirmed, whatever the trials said."""

import numpy as np
import pytest

from benchmarks.mlperf_search import STEP, STEPS, peak


def test_limit_is_found_within_the_resolution() -> None:
    found = peak(lambda rate: rate <= 700, lambda rate: (rate <= 700, rate), capacity=1000)
    assert 700 - 1000 / 64 <= found <= 700


def test_server_that_holds_its_capacity_is_asked_for_nearly_all_of_it() -> None:
    assert peak(lambda rate: True, lambda rate: (True, rate), capacity=1000) > 980


@pytest.mark.parametrize("seed", range(5))
def test_trials_that_err_never_reach_the_answer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = peak(lambda rate: rate <= 700 * rng.normal(1, 0.2), lambda rate: (rate <= 700, rate), capacity=1000)
    assert 0 < found <= 700


def test_lowest_rate_is_confirmed_even_if_no_trial_held() -> None:
    assert peak(lambda rate: False, lambda rate: (True, rate), capacity=1024) == 8


def test_server_that_never_holds_ends_the_search_with_its_last_confirmation() -> None:
    tried: list[float] = []

    def confirm(rate: float) -> tuple[bool, float]:
        tried.append(rate)
        return False, rate

    assert peak(lambda rate: False, confirm, capacity=1024) == tried[-1]
    assert len(tried) == STEPS + 1
    assert tried[-1] == pytest.approx(tried[0] * STEP**STEPS)

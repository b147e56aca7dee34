"""The search for the highest load, over measurements that are made up."""

from collections.abc import Callable

import numpy as np
import pytest

from narsil_graph.bench.find_max import CONFIRMATIONS_MAX, RESOLUTION, find_max
from narsil_graph.bench.load_result import LoadResult
from narsil_graph.bench.log import Log
from narsil_graph.bench.subject import OK, Done

SLO_US = 1000.0


def result_of(latency_us: float) -> LoadResult:
    log = Log()
    log.add(intended_ns=0, sent_ns=0, rows=1, done=Done(0, round(latency_us * 1000), OK))
    return LoadResult.of(log)


class Server:
    """Keeps the promise up to `limit` requests/s; `stalls` says which measurements, counted from 0, are spoilt."""

    def __init__(self, limit: float, stalls: Callable[[int], bool] = lambda number: False) -> None:
        self._limit = limit
        self._stalls = stalls
        self.rates: list[float] = []

    def __call__(self, rate: float) -> LoadResult:
        self.rates.append(rate)
        spoilt = self._stalls(len(self.rates) - 1)
        return result_of(2 * SLO_US if spoilt or rate > self._limit else SLO_US / 2)


@pytest.mark.parametrize("limit", [11.0, 100.0, 137.0, 799.0])
def test_answer_is_within_the_resolution_below_the_limit(limit: float) -> None:
    found = find_max(Server(limit), SLO_US, 10.0, 800.0)
    assert found.rate is not None
    assert limit / (1 + RESOLUTION) <= found.rate <= limit
    assert found.result is not None and found.result.meets(SLO_US)


def test_nothing_above_the_highest_rate_is_tried() -> None:
    server = Server(1e9)
    assert find_max(server, SLO_US, 10.0, 300.0).rate == 300.0
    assert max(server.rates) == 300.0


def test_search_goes_below_the_lowest_rate_where_that_is_too_much() -> None:
    found = find_max(Server(3.0), SLO_US, 10.0, 800.0)
    assert found.rate is not None
    assert 3.0 / (1 + RESOLUTION) <= found.rate <= 3.0


def test_server_that_never_keeps_the_promise_has_no_rate() -> None:
    server = Server(0.0)
    found = find_max(server, SLO_US, 10.0, 800.0)
    assert (found.rate, found.result) == (None, None)
    assert len(server.rates) == len(found.trials) < 20


@pytest.mark.parametrize("spoilt", range(12))
def test_one_stall_of_the_machine_does_not_lower_the_answer(spoilt: int) -> None:
    server = Server(137.0, lambda number: number == spoilt)
    found = find_max(server, SLO_US, 10.0, 800.0, confirm=Server(137.0))
    assert found.rate is not None and found.rate >= 137.0 / (1 + RESOLUTION)


def test_answer_is_the_one_that_the_longer_run_confirms() -> None:
    longer = Server(100.0)
    found = find_max(Server(137.0), SLO_US, 10.0, 800.0, confirm=longer)
    assert found.rate == longer.rates[-1]
    assert 90.0 < longer.rates[-1] <= 100.0
    assert [trial.rate for trial in found.trials if trial.confirming] == longer.rates
    assert [trial.met for trial in found.trials if trial.confirming] == [False] * (len(longer.rates) - 1) + [True]


def test_what_is_never_confirmed_is_no_answer() -> None:
    longer = Server(0.0)
    assert find_max(Server(137.0), SLO_US, 10.0, 800.0, confirm=longer).rate is None
    assert len(longer.rates) == CONFIRMATIONS_MAX


@pytest.mark.parametrize("seed", range(5))
def test_answer_over_noisy_measurements_is_near_the_limit_and_confirmed(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def measure(rate: float) -> LoadResult:
        return result_of(SLO_US * (rate / 200.0) ** 3 * float(np.exp(0.1 * rng.standard_normal())))

    found = find_max(measure, SLO_US, 10.0, 800.0)
    assert found.rate is not None
    # 10% of noise is 3.3% of rate here.
    assert 170 < found.rate < 230
    assert found.result is not None and found.result.meets(SLO_US)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (2.0, 1.0)])
def test_rates_out_of_order_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="want rates 0 < low <= high"):
        find_max(Server(1.0), SLO_US, low, high)

"""Blocks take turns, ask both the same, and give one ratio a round."""

import itertools
import subprocess
from collections import Counter

import numpy as np
import pytest

from narsil_graph.bench import blocks
from narsil_graph.bench.blocks import Load, Measured, Round, Side, run_round, run_rounds
from narsil_graph.bench.log import Log
from narsil_graph.bench.subject import OK, TIMEOUT, Done, Rows
from narsil_graph.errors import Failure
from tests.bench.instant_server import InstantSubject, about
from tests.bench.virtual_server import POOL

CLOSED = Load(in_flight=2, rate=None, block_s=0.004)
OPEN = Load(in_flight=2, rate=5000.0, block_s=0.004)


def sides(a_us: float, b_us: float) -> tuple[Side, Side]:
    return Side("A", InstantSubject(about(a_us), seed=1), ()), Side("B", InstantSubject(about(b_us), seed=2), ())


def turns(seed: int) -> str:
    """Who was asked, block by block, in one round."""
    asked: list[str] = []

    class Told(InstantSubject):
        def __init__(self, name: str) -> None:
            super().__init__(about(5.0))
            self.name = name

        def poll(self, timeout_s: float) -> list[Done]:
            if not asked or asked[-1] != self.name:
                asked.append(self.name)
            return super().poll(timeout_s)

    run_round(Side("A", Told("a"), ()), Side("B", Told("b"), ()), POOL, CLOSED, np.random.default_rng(seed))
    return "".join(asked)


def test_round_is_abba_or_baab() -> None:
    # Two blocks in a row of the same side look like one here.
    assert {turns(seed) for seed in range(8)} == {"aba", "bab"}


@pytest.mark.parametrize("late_us", [100.0, 300.0])
def test_ratio_of_latencies_is_the_true_one(late_us: float) -> None:
    found = run_round(*sides(100.0, late_us), POOL, CLOSED, np.random.default_rng(0)).log_ratios()
    # What submitting costs on a busy machine is in both.
    assert found["p50"] == pytest.approx(np.log(late_us / 100.0), abs=0.3)
    assert found.keys() == {"p50", "p99", "throughput"}


def test_open_loop_asks_both_the_same_as_often() -> None:
    a, b = sides(5.0, 5.0)
    found = run_round(a, b, POOL, OPEN, np.random.default_rng(0))
    assert sum(found.a.statuses.values()) == sum(found.b.statuses.values()) > 0


def test_cpu_time_of_the_processes_is_per_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    spent_s = itertools.count(0.0, 0.5)
    monkeypatch.setattr(blocks, "cpu_seconds", lambda pids: next(spent_s))
    a, b = (Side(side.name, side.subject, (1,)) for side in sides(5.0, 5.0))
    found = run_round(a, b, POOL, CLOSED, np.random.default_rng(0))
    # Half a second in each of two blocks; the pool's requests are of four rows.
    assert found.a.cpu_s_per_million == pytest.approx(1e6 / (4 * found.a.statuses[OK]))


def test_refusals_are_no_latencies_and_timeouts_are() -> None:
    log = Log()
    for status, done_ns in ((OK, 1_000), ("OVERLOADED", 10), (TIMEOUT, 5_000_000)):
        scores = np.zeros(4, np.float32) if status == OK else None
        log.add(intended_ns=0, sent_ns=0, rows=4, done=Done(0, done_ns, status, scores))
    log.seconds = 1.0
    found = Measured.of("A", log, None)
    assert found.latency_us.tolist() == [1.0, 5000.0]
    assert found.statuses == {OK: 1, "OVERLOADED": 1, TIMEOUT: 1}


def test_side_that_scores_nothing_is_a_failure_that_says_why() -> None:
    silent = Side("B", InstantSubject(about(5.0), refused=frozenset(range(1 << 16))), ())
    with pytest.raises(Failure, match=r"B scored nothing in a block: [0-9]+ OVERLOADED"):
        run_round(sides(5.0, 5.0)[0], silent, POOL, CLOSED, np.random.default_rng(0))


def test_side_that_takes_nothing_is_a_failure_that_says_so() -> None:
    class Gone(InstantSubject):
        def submit(self, number: int, rows: Rows) -> bool:
            return False

    with pytest.raises(Failure, match="B scored nothing in a block: it took no request"):
        run_round(sides(5.0, 5.0)[0], Side("B", Gone(about(5.0)), ()), POOL, CLOSED, np.random.default_rng(0))


def test_side_whose_process_has_ended_is_a_failure_that_says_so() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    ended = Side("B", InstantSubject(about(5.0)), (process.pid,))
    with pytest.raises(Failure, match="a process of B has ended"):
        run_round(sides(5.0, 5.0)[0], ended, POOL, CLOSED, np.random.default_rng(0))


def test_rounds_go_on_until_enough_when_time_is_over() -> None:
    told: list[str] = []
    rng = np.random.default_rng(0)
    found = run_rounds(sides(5.0, 5.0), POOL, CLOSED, rng, rounds_min=2, until_s=0.0, tell=told.append)
    assert len(found) == 2
    assert told == ["A and B: 2 blocks each", "A and B: 4 blocks each"]


def test_ratio_is_of_what_both_have() -> None:
    with_cpu = Measured(np.ones(3), Counter(), 10.0, 2.0)
    without = Measured(np.full(3, 2.0), Counter(), 20.0, None)
    found = Round(with_cpu, without).log_ratios()
    assert found == pytest.approx({"p50": np.log(2), "p99": np.log(2), "throughput": np.log(2)})


@pytest.mark.parametrize(("in_flight", "rate", "block_s"), [(0, None, 1.0), (1, 0.0, 1.0), (1, None, 0.0)])
def test_load_that_asks_nothing_cannot_be_made(in_flight: int, rate: float | None, block_s: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Load(in_flight, rate, block_s)

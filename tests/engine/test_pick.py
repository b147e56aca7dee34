"""A kernel that is wrong, or that sees where a row lies, never serves; of the rest the fastest does."""

from collections.abc import Callable

import pytest
import torch

from narsil_graph.engine import pick
from narsil_graph.engine.pick import Candidate, agreeing, fastest, in_turn

SOURCE, TARGET = torch.zeros(4, 6), torch.zeros(4, 6)
TOLERANCE = 1e-5


class Clock:
    """Time that passes only while a candidate runs."""

    def __init__(self) -> None:
        self.now_ns = 0

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def taking(self, name: str, *durations_ns: int) -> Candidate:
        """A candidate whose calls take these times in turn, the last one ever after."""
        left = list(durations_ns)

        def run() -> None:
            self.now_ns += left.pop(0) if len(left) > 1 else left[0]

        return Candidate(name, run)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pick, "time", made)
    return made


@pytest.mark.parametrize("times_ns", [(900, 1000), (1000, 900), (50_000_000, 49_000_000), (1, 2)])
def test_fastest_is_picked_wherever_it_stands(clock: Clock, times_ns: tuple[int, int]) -> None:
    candidates = [clock.taking(str(time_ns), time_ns) for time_ns in times_ns]
    assert fastest(candidates).name == str(min(times_ns))


def test_slow_first_call_does_not_decide(clock: Clock) -> None:
    # The first call of a kernel generates its code; the best round counts.
    cold = clock.taking("cold", 80_000_000, 1000, 70_000_000, 1000)
    assert fastest([clock.taking("steady", 2000), cold]).name == "cold"


def test_only_candidate_is_not_timed() -> None:
    calls: list[int] = []
    only = Candidate("only", lambda: calls.append(1))
    assert fastest([only]) is only
    assert not calls


def writing(compute: Callable[[], torch.Tensor]) -> Candidate:
    return Candidate("other", lambda: TARGET.copy_(compute()))


DOUBLED = Candidate("first", lambda: TARGET.copy_(SOURCE * 2))


def kept(*candidates: Candidate) -> list[str]:
    return [c.name for c in agreeing(candidates, source=SOURCE, target=TARGET, tolerance=TOLERANCE)]


def test_candidate_within_tolerance_is_kept() -> None:
    assert kept(DOUBLED, writing(lambda: SOURCE * 2 + TOLERANCE / 4)) == ["first", "other"]


@pytest.mark.parametrize(
    "compute",
    [
        lambda: SOURCE * 2 + 1e-3,
        lambda: SOURCE * 2.001,
        lambda: SOURCE * float("nan"),
        lambda: SOURCE * 2 * torch.tensor([1.0] * 5 + [0.0]),
    ],
    ids=["shifted", "scaled", "not a number", "one column missing"],
)
def test_wrong_candidate_is_rejected(compute: Callable[[], torch.Tensor]) -> None:
    assert kept(DOUBLED, writing(compute)) == ["first"]


def test_candidate_that_sees_the_position_of_a_row_is_rejected() -> None:
    last_bit = torch.tensor([[0.0], [0.0], [0.0], [3e-7]])
    assert kept(DOUBLED, writing(lambda: SOURCE * 2 + last_bit)) == ["first"]


@pytest.mark.parametrize("columns", [0, 5])
def test_candidate_that_does_not_write_everything_is_rejected(columns: int) -> None:
    idle = Candidate("idle", lambda: TARGET[:, :columns].copy_(SOURCE[:, :columns] * 2))
    assert kept(DOUBLED, idle) == ["first"]


def test_first_is_rejected_too_if_it_sees_positions() -> None:
    position = torch.arange(4.0)[:, None]
    first = Candidate("first", lambda: TARGET.copy_(SOURCE + position * 1e-7))
    assert kept(first, writing(lambda: SOURCE)) == ["other"]


def test_calls_are_made_in_turn() -> None:
    made: list[str] = []
    in_turn([lambda: made.append("a"), lambda: made.append("b"), lambda: made.append("c")])()
    assert made == ["a", "b", "c"]

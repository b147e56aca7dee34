"""The regression gates: what a bound is, what breaks it, and what the command makes of that."""

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks import gate, gate_served
from benchmarks.gate_bounds import Bound, Outcome, Verdict, load_bounds
from narsil_graph import threads

KEPT, OPEN, BROKEN = Verdict.KEPT, Verdict.OPEN, Verdict.BROKEN
TRUE_BOUNDS = Path(gate.__file__).parent / "gates.toml"


@pytest.mark.parametrize(
    ("bound", "low", "high", "verdict"),
    [
        (Bound(at_least=2.0), 2.0, 2.4, KEPT),
        (Bound(at_least=2.0), 1.9, 2.4, OPEN),
        (Bound(at_least=2.0), 1.9, 2.0, OPEN),
        (Bound(at_least=2.0), 1.7, 1.9, BROKEN),
        (Bound(at_most=2.0), 1.7, 2.0, KEPT),
        (Bound(at_most=2.0), 1.9, 2.1, OPEN),
        (Bound(at_most=2.0), 2.0, 2.1, OPEN),
        (Bound(at_most=2.0), 2.1, 2.4, BROKEN),
    ],
)
def test_bound_is_broken_only_by_a_whole_interval_beyond_it(
    bound: Bound, low: float, high: float, verdict: Verdict
) -> None:
    assert bound.verdict(low, high) is verdict


def test_one_wild_round_breaks_nothing() -> None:
    assert Outcome.of("", Bound(at_most=2.0), [1.0] * 11 + [50.0]).verdict is KEPT


def test_slow_down_of_every_round_is_broken_whatever_their_noise() -> None:
    assert Outcome.of("", Bound(at_most=2.0), [2.1, 2.3, 2.2, 2.6, 2.4, 2.2]).verdict is BROKEN


@pytest.mark.parametrize(
    "limits", [{}, {"at_least": 1.0, "at_most": 2.0}, {"at_least": 0.0}, {"at_most": float("nan")}]
)
def test_bound_is_one_number_above_zero(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="want one of at_least and at_most, above 0"):
        Bound(**limits)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[a]\nat_most = 2\n", "b: there is no bound for it"),
        ("[a]\nat_most = 2\n[b]\nat_most = 2\n[c]\nat_most = 2\n", "c: there is no gate of that name"),
        ("a = 2\nb = 2\n", "a: want at_least or at_most with a number"),
        ("[a]\nat_most = true\n[b]\nat_most = 2\n", "a: want at_least or at_most with a number"),
        ("[a]\nmost = 2\n[b]\nat_most = 2\n", "a: want at_least or at_most with a number"),
        ("[a]\n[b]\nat_most = 2\n", "a: want one of at_least and at_most, above 0"),
        ("[a", "cannot read"),
    ],
)
def test_bounds_that_are_not_one_for_each_gate_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "gates.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        load_bounds(path, ("a", "b"))


def test_every_gate_has_its_bound() -> None:
    assert load_bounds(TRUE_BOUNDS, tuple(gate.GATES)).keys() == gate.GATES.keys()


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Those of a run whose gates may all be 2 at most."""
    bounds, model = tmp_path / "gates.toml", tmp_path / "model"
    bounds.write_text("\n".join(f"[{name}]\nat_most = 2.0" for name in gate.GATES))
    model.touch()
    found = ["gate.py", "--model", str(model), "--bounds", str(bounds), "--json", str(tmp_path / "told.json")]
    monkeypatch.setattr(sys, "argv", found)
    # A process' settings are not a test's to change.
    monkeypatch.setattr(threads, "prepare", lambda count: None)
    return found


def measure(monkeypatch: pytest.MonkeyPatch, **ratios: float) -> None:
    """Have each round of each gate find 1.0, but for these."""
    whole = dict.fromkeys(gate.GATES, 1.0) | ratios
    monkeypatch.setattr(gate, "measured", lambda path, quick: {name: [ratio] * 6 for name, ratio in whole.items()})


def test_gates_that_are_kept_end_well_and_are_written_down(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    measure(monkeypatch)
    gate.main()
    (table,) = json.loads(Path(arguments[-1]).read_text())["tables"].values()
    assert {row["gate"]: row["verdict"] for row in table} == dict.fromkeys(gate.GATES, "kept")


def test_gate_that_this_machine_cannot_measure_is_left_out(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(gate, "measured", lambda path, quick: {"served": [1.0] * 6})
    gate.main()
    (table,) = json.loads(Path(arguments[-1]).read_text())["tables"].values()
    assert [row["gate"] for row in table] == ["served"]


def test_served_gates_want_two_cores(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert gate_served.served_ratios(None, Path(), quick=True) == {}  # type: ignore[arg-type]
    assert "need two cores" in capsys.readouterr().out


@pytest.mark.usefixtures("arguments")
def test_broken_gate_fails_the_run_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    measure(monkeypatch, served=2.5)
    with pytest.raises(SystemExit, match=r"^broken: served$"):
        gate.main()


def test_bounds_that_cannot_be_read_end_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    def never(path: Path, quick: bool) -> dict[str, list[float]]:
        raise AssertionError("measured")

    monkeypatch.setattr(gate, "measured", never)
    Path(arguments[4]).unlink()
    with pytest.raises(SystemExit) as ended:
        gate.main()
    assert ended.value.code == 2

"""`bench ab`: what it prints and writes, its exit codes, and what it refuses."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from narsil_graph.bench import comparison
from narsil_graph.commands.bench_ab import ab
from narsil_graph.errors import UsageFailure
from tests.bench.instant_server import about, adapter
from tests.bench.spec_server import SpecServer
from tests.client.fake_server import scored
from tests.engine.tiny import Shape

SHORT = ("--seconds", "0.6", "--block-ms", "5", "--sizes", "constant:3", "--in-flight", "2", "--no-pin")
# A few microseconds are what submitting costs here; a neighbour on the machine may make them more.
CALM = ("--resolution", "0.3", "--margin", "0.1")


@pytest.fixture(autouse=True)
def warm_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "WARM_UP_S", 0.01)


def ran(*arguments: object) -> Result:
    result = CliRunner().invoke(ab, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> str:
    return adapter(monkeypatch, "the_base", [about(1000.0)])


@pytest.fixture
def slower(monkeypatch: pytest.MonkeyPatch) -> str:
    return adapter(monkeypatch, "the_slower", [about(1300.0)])


def test_slower_b_is_found_and_fails_a_condition(base: str, slower: str, tmp_path: Path) -> None:
    out = tmp_path / "ab.json"
    result = ran(base, slower, *SHORT, *CALM, "--fail-if", "p50 > 1.1", "--json", out)
    told = json.loads(out.read_text())
    assert result.exit_code == told["result"]["exit_code"] == 1
    assert told["result"]["b_against_a"]["p50"]["ratio"] == pytest.approx(1.3, abs=0.1)
    assert "95% CI" in result.stdout and "worse." in result.stdout
    assert "p50 > 1.1: holds" in result.stdout


def test_condition_that_does_not_hold_passes(base: str, slower: str) -> None:
    assert ran(base, slower, *SHORT, *CALM, "--fail-if", "p50 > 1.6").exit_code == 0


def test_no_verdict_where_a_differs_from_itself(monkeypatch: pytest.MonkeyPatch, slower: str) -> None:
    moody = adapter(monkeypatch, "the_moody", [about(1000.0), about(1500.0)])
    result = ran(moody, slower, *SHORT, *CALM, "--fail-if", "p50 > 1.01")
    assert result.exit_code == 3
    assert "B's p50: too noisy to say. A against A is 1." in result.stdout
    assert "p50 > 1.01: cannot be said" in result.stdout


def test_p50_is_asked_where_no_condition_is(monkeypatch: pytest.MonkeyPatch, base: str, slower: str) -> None:
    moody = adapter(monkeypatch, "the_moody", [about(1000.0), about(1500.0)])
    assert ran(base, slower, *SHORT, *CALM).exit_code == 0
    assert ran(moody, slower, *SHORT, *CALM).exit_code == 3


def test_faster_b_with_other_scores_fails_by_its_scores(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    wrong = adapter(monkeypatch, "the_wrong", [about(500.0)], added=0.25)
    result = ran(base, wrong, *SHORT, *CALM, "--fail-if", "score_max_diff > 1e-5")
    assert result.exit_code == 1
    assert "B is faster, but does not answer the same: scores differ by at most 0.25 (mean 0.25)" in result.stdout


def test_starts_are_the_unit_where_there_are_several(base: str, slower: str, tmp_path: Path) -> None:
    out = tmp_path / "ab.json"
    ran(base, slower, *SHORT, "--starts", 6, "--json", out)
    told = json.loads(out.read_text())["result"]
    assert told["blocks"] >= 12
    assert told["b_against_a"]["p50"]["low"] < told["b_against_a"]["p50"]["high"]


def test_running_servers_are_attached_to(tmp_path: Path) -> None:
    png = tmp_path / "ab.png"
    with SpecServer(scored) as a, SpecServer(scored) as b:
        result = ran(a.endpoint, b.endpoint, *SHORT, "--rate", 500, "--block-ms", 20, "--seconds", 2, "--png", png)
    assert "B's scores are A's, bit for bit" in result.stdout
    # They listen here, so their processes are known.
    assert "B's CPU time per sample" in result.stdout
    assert png.read_bytes().startswith(b"\x89PNG")


def test_models_with_other_inputs_are_refused() -> None:
    with (
        SpecServer(scored) as a,
        SpecServer(scored, Shape(dense_features=5).spec()) as b,
        pytest.raises(UsageFailure, match="A and B take different inputs: "),
    ):
        ran(a.endpoint, b.endpoint, *SHORT)


def test_servers_of_one_side_with_different_models_are_refused() -> None:
    with (
        SpecServer(scored) as a,
        SpecServer(scored, Shape(dense_features=5).spec()) as b,
        pytest.raises(UsageFailure, match="the servers at these endpoints have different models"),
    ):
        ran(f"{a.endpoint},{b.endpoint}", a.endpoint, *SHORT)


def test_score_that_is_no_number_fails_its_condition_and_is_null_in_json(
    monkeypatch: pytest.MonkeyPatch, base: str, tmp_path: Path
) -> None:
    wrong = adapter(monkeypatch, "the_nan", [about(1000.0)], added=float("nan"))
    result = ran(base, wrong, *SHORT, *CALM, "--fail-if", "score_max_diff > 1e-5", "--json", tmp_path / "ab.json")
    text = (tmp_path / "ab.json").read_text()
    assert result.exit_code == 1
    assert "Infinity" not in text and json.loads(text)["result"]["agreement"]["score_max_diff"] is None


@pytest.mark.parametrize("option", ["--rate", "--seconds", "--margin", "--resolution"])
def test_what_is_no_number_is_refused(base: str, option: str) -> None:
    result = ran(base, base, *SHORT, option, "nan")
    assert result.exit_code == 2 and f"Invalid value for '{option}'" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rate", 10), "a block of --block-ms 250 has 2.5 requests at --rate 10: want 7 at least"),
        (("--starts", 3), "want --starts 1, or 6 at least"),
        (("--seconds", 1, "--block-ms", 1000), "want --seconds 79 at least"),
        (("--fail-if", "p98 > 1"), "want --fail-if"),
        (("--sizes", "some"), "want --sizes"),
        (("--json", "/no/such/folder/a.json"), "there is no such folder"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], said: str
) -> None:
    broken = adapter(monkeypatch, "the_broken", [])
    with pytest.raises(UsageFailure, match=said):
        ran(broken, broken, *options)

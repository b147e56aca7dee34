"""The commands that make, convert, show and examine models."""

import json
from pathlib import Path

import numpy as np
import pytest

from narsil_graph.model.weights import Model, load_model
from tests.model.torchrec_archives import Shape, draft
from tests.serving.peers import one_hot
from tests.serving.processes import DEMO, narsil, only_sentence, run_python, usage_error


def test_inspect_shows_what_the_file_holds(model: Model) -> None:
    ended = narsil("inspect", DEMO)
    assert ended.returncode == 0, ended.stderr
    first, *lines = ended.stdout.splitlines()
    assert first.startswith(f"{model.spec.name}  version {model.version}  ")
    assert sum(line.startswith("sparse ") for line in lines) == len(model.spec.sparse_features)
    user = model.spec.feature_tables[0]
    assert f"user               {user.rows} x {user.dim} int8 sum  (table user)" in ended.stdout


def test_imported_archive_is_a_model_file_that_other_commands_take(tmp_path: Path) -> None:
    archive, output = draft(Shape()).write(tmp_path / "ctr.pt"), tmp_path / "ctr.safetensors"
    ended = narsil("import", archive, "-o", output)
    assert ended.returncode == 0, ended.stderr
    made = load_model(output)
    assert ended.stdout.startswith(f"wrote {output}: ctr version {made.version}, ")
    assert narsil("inspect", output).stdout.startswith(f"ctr  version {made.version}  ")


@pytest.mark.parametrize(
    ("command", "data", "words"),
    [
        ("import", b"no archive", "it is not a zip archive or is damaged"),
        ("import", None, "it cannot be read (No such file or directory)"),
        ("inspect", None, "cannot read the model"),
    ],
)
def test_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, command: str, data: bytes | None, words: str) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    if data is not None:
        source.write_bytes(data)
    ended = narsil(command, source, *(["-o", output] if command == "import" else []))
    assert ended.returncode == 1
    assert words in only_sentence(ended)
    assert str(source) in only_sentence(ended)
    assert not output.exists()


def test_output_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    archive, output = draft(Shape()).write(tmp_path / "ctr.pt"), tmp_path / "none" / "ctr.safetensors"
    ended = narsil("import", archive, "-o", output)
    assert ended.returncode == 1
    assert only_sentence(ended) == f"cannot write {output}: No such file or directory"


def test_reference_model_is_made_calibrated(tmp_path: Path) -> None:
    output = tmp_path / "reference.safetensors"
    ended = narsil("make-model", "--seed", "7", "-o", output)
    assert ended.returncode == 0, ended.stderr
    made = load_model(output)
    assert made.version in ended.stdout
    assert len(made.spec.activation_ranges) == len(made.spec.dense_arch) + len(made.spec.over_arch)


def test_calibrate_records_ranges_and_changes_nothing_else(tmp_path: Path, model: Model) -> None:
    request, source, output = one_hot(model, 200), tmp_path / "rows.npz", tmp_path / "m.safetensors"
    assert request.ids is not None
    # A range that only this sample has.
    request.dense[:, 0] = np.linspace(-50, 90, 200)
    np.savez(source, dense=request.dense, ids=request.ids)
    ended = narsil("calibrate", DEMO, "--input", source, "-o", output)
    assert ended.returncode == 0, ended.stderr
    made = load_model(output)
    assert made.spec.activation_ranges[0] == (-50.0, 90.0)
    assert made.weight_bytes == model.weight_bytes
    assert made.version != model.version


def test_calibrate_refuses_rows_that_a_server_would_refuse(tmp_path: Path, model: Model) -> None:
    request, source = one_hot(model, 2), tmp_path / "rows.npz"
    assert request.ids is not None
    np.savez(source, dense=request.dense, ids=request.ids - 100_000)
    ended = narsil("calibrate", DEMO, "--input", source, "-o", tmp_path / "out")
    assert ended.returncode == 1
    assert only_sentence(ended).startswith("OUT_OF_RANGE: feature 'user', row 0: ")
    assert not (tmp_path / "out").exists()


def test_doctor_finds_the_demo_healthy_and_says_what_it_measured() -> None:
    ended = narsil("doctor", "--buckets", "1,8")
    assert ended.returncode == 0, ended.stderr
    *_, small, large, verdict = ended.stdout.splitlines()
    assert (small.split()[0], large.split()[0]) == ("1", "8")
    assert verdict == "healthy: 2 buckets, 10 checks"


def test_doctor_json_holds_every_check_of_every_bucket() -> None:
    ended = narsil("doctor", "--buckets", "1,4", "--json")
    assert ended.returncode == 0, ended.stderr
    reports = json.loads(ended.stdout)
    assert [report["rows"] for report in reports] == [1, 4]
    for report in reports:
        assert report["error"] < 1e-6
        assert 0 < report["replay_us_p50"] <= report["replay_us_p99"]
        checks = {finding["check"]: finding["problem"] for finding in report["findings"]}
        assert checks == dict.fromkeys(["parity", "repeat", "padding", "neighbours", "stale"])


# An engine whose every score is a little off, which only a comparison can find.
SICK = """
from narsil_graph.__main__ import main
from narsil_graph.engine.cpu_plan import CpuPlan

scores = CpuPlan.scores
CpuPlan.scores = lambda self, slot: scores(self, slot) + 1e-4
main()
"""


def test_doctor_ends_with_1_and_names_bucket_and_check_when_scores_are_off() -> None:
    ended = run_python("-c", SICK, "doctor", "--buckets", "1,4")
    assert ended.returncode == 1
    assert only_sentence(ended).startswith(
        "bucket 1: parity: scores are 1.0e-04 off float64, more than 1e-06; bucket 4: "
    )
    assert "healthy" not in ended.stdout


def test_server_does_not_start_on_scores_that_are_off(tmp_path: Path) -> None:
    bind = f"ipc://{tmp_path}/s"
    ended = run_python("-c", SICK, "serve", "--buckets", "4", "--bind", bind, "--dry-run")
    assert ended.returncode == 1
    assert only_sentence(ended).startswith("bucket 4 is 1.0e-04 off the float64 scores, more than 1e-05: ")
    assert ended.stdout == ""


def test_int8_without_ranges_is_refused_in_one_sentence(tmp_path: Path) -> None:
    archive, output = draft(Shape()).write(tmp_path / "ctr.pt"), tmp_path / "ctr.safetensors"
    assert narsil("import", archive, "-o", output).returncode == 0
    ended = narsil("doctor", output, "--precision", "int8")
    assert ended.returncode == 1
    assert "run narsil-graph calibrate" in only_sentence(ended)


def test_doctor_refuses_wrong_buckets_as_usage() -> None:
    ended = narsil("doctor", "--buckets", "2,1")
    assert ended.returncode == 2
    assert only_sentence(ended) == "--buckets: want row counts of at least 1 that increase, got '2,1'"


def test_unknown_command_is_a_usage_error() -> None:
    assert "No such command 'train'" in usage_error(narsil("train"))


def test_version_is_the_packages() -> None:
    from narsil_graph import __version__

    assert narsil("--version").stdout.strip().endswith(__version__)

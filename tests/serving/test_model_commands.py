"""The commands that make, convert and show models."""

from pathlib import Path

import numpy as np
import pytest

from narsil_graph.model.weights import Model, load_model
from tests.model.torchrec_archives import Shape, draft
from tests.serving.peers import one_hot
from tests.serving.processes import DEMO, narsil, only_sentence, usage_error


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


def test_unknown_command_is_a_usage_error() -> None:
    assert "No such command 'train'" in usage_error(narsil("train"))


def test_version_is_the_packages() -> None:
    from narsil_graph import __version__

    assert narsil("--version").stdout.strip().endswith(__version__)

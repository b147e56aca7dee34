"""`quantise` writes the same model with other rows, and says what that does to its scores."""

from pathlib import Path

import numpy as np
import pytest

from narsil_graph.engine.row_error import row_error
from narsil_graph.model.requantise import with_rows
from narsil_graph.model.spec import RowFormat
from narsil_graph.model.weights import Model, load_model, save_model
from tests.engine.tiny import SHAPES, tiny_model
from tests.serving.processes import DEMO, narsil, only_sentence, usage_error


@pytest.mark.parametrize("row_format", ["int4", "fp16"])
def test_rows_are_stored_as_asked_and_the_error_is_told(tmp_path: Path, model: Model, row_format: str) -> None:
    output = tmp_path / "m.safetensors"
    ended = narsil("quantise", DEMO, "--rows", row_format, "-o", output)
    assert ended.returncode == 0, ended.stderr
    made = load_model(output)
    assert made.version == with_rows(model, RowFormat(row_format)).version
    wrote, told = ended.stdout.splitlines()
    assert wrote.startswith(f"wrote {output}: movielens version {made.version}, ")
    error = row_error(made, model, np.random.default_rng(0))
    assert told == f"its scores differ from those of {DEMO} by at most {error:.1e} on random rows"


def test_quantised_model_is_healthy(tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    assert narsil("quantise", DEMO, "--rows", "int4", "-o", output).returncode == 0
    ended = narsil("doctor", output, "--buckets", "4")
    assert ended.returncode == 0, ended.stderr


def test_model_can_be_written_over_itself(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(DEMO.read_bytes())
    assert narsil("quantise", path, "--rows", "fp32", "-o", path).returncode == 0
    assert set(load_model(path).rows) == {RowFormat.FP32}


def test_values_that_the_format_cannot_hold_are_one_sentence(tmp_path: Path) -> None:
    large = tiny_model(SHAPES["fp32"])
    large.rows[RowFormat.FP32].view(np.float32)[0, 0] = 1e6
    source, output = tmp_path / "large.safetensors", tmp_path / "out"
    save_model(large, source)
    ended = narsil("quantise", source, "--rows", "int8", "-o", output)
    assert ended.returncode == 1
    assert only_sentence(ended).startswith("table 'table_0' cannot be stored as int8: its values reach 1e+06")
    assert not output.exists()


def test_output_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    output = tmp_path / "none" / "m.safetensors"
    ended = narsil("quantise", DEMO, "--rows", "fp16", "-o", output)
    assert ended.returncode == 1
    assert only_sentence(ended) == f"cannot write {output}: No such file or directory"


def test_unknown_format_is_a_usage_error() -> None:
    assert "'int2' is not one of" in usage_error(narsil("quantise", DEMO, "--rows", "int2", "-o", "out"))


def test_every_row_format_is_offered() -> None:
    from narsil_graph.commands.quantise import ROW_FORMATS

    assert set(ROW_FORMATS) == {row_format.value for row_format in RowFormat}

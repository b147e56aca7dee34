"""A model file gives back the model that was saved, or says in one sentence why it does not."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from narsil_graph.model.spec import RowFormat, SpecError
from narsil_graph.model.weights import LinearLayer, ModelFileError, load_model, save_model
from tests.engine.tiny import MIXED, SHAPES, Shape, tiny_model

HEADER_LENGTH_BYTES = 8


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(tiny_model(), path)
    return path


def refusal(path: Path) -> str:
    """The one sentence that refuses the file at ``path``."""
    with pytest.raises(ModelFileError) as refused:
        load_model(path)
    sentence = str(refused.value)
    assert str(path) in sentence
    assert sentence
    assert "\n" not in sentence
    return sentence


def header_end(content: bytes) -> int:
    return HEADER_LENGTH_BYTES + int.from_bytes(content[:HEADER_LENGTH_BYTES], "little")


def with_metadata(path: Path, change: Callable[[dict[str, str]], object]) -> None:
    """Rewrite the file's metadata in place, the tensors as they were."""
    content = path.read_bytes()
    header = json.loads(content[HEADER_LENGTH_BYTES : header_end(content)])
    change(header["__metadata__"])
    changed = json.dumps(header).encode()
    changed += b" " * (-len(changed) % 8)
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[header_end(content) :])


@pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))
def test_saved_model_is_loaded_unchanged(shape: Shape, tmp_path: Path) -> None:
    model = tiny_model(shape)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.spec == model.spec
    assert loaded.version == model.version
    for row_format, rows in model.rows.items():
        assert np.array_equal(loaded.rows[row_format], rows)
    for mine, its in zip(model.dense_layers + model.over_layers, loaded.dense_layers + loaded.over_layers, strict=True):
        assert np.array_equal(mine.weight, its.weight)
        assert np.array_equal(mine.bias, its.bias)


def test_loaded_weights_are_mapped_not_copied(saved: Path) -> None:
    model = load_model(saved)
    assert not model.rows[RowFormat.INT8].flags.owndata
    assert not model.over_layers[0].weight.flags.owndata


def test_saving_replaces_the_file_as_a_whole(saved: Path) -> None:
    other = tiny_model(seed=1)
    save_model(other, saved)
    assert load_model(saved).version == other.version
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_version_changes_with_any_weight() -> None:
    model = tiny_model()
    layer = LinearLayer(model.over_layers[0].weight, np.nextafter(model.over_layers[0].bias, np.float32(9)))
    rows = model.rows[RowFormat.INT8].copy()
    rows[-1, -1] ^= 1
    versions = {
        model.version,
        dataclasses.replace(model, over_layers=(layer, *model.over_layers[1:])).version,
        dataclasses.replace(model, rows={RowFormat.INT8: rows}).version,
    }
    assert len(versions) == 3


def test_version_changes_with_the_specification() -> None:
    model = tiny_model()
    assert dataclasses.replace(model, spec=dataclasses.replace(model.spec, name="other")).version != model.version


def test_table_rows_are_the_rows_of_that_table() -> None:
    model = tiny_model(MIXED)
    int4_tables = [model.table_rows(f"table_{number}") for number in (0, 4)]
    assert [len(rows) for rows in int4_tables] == [3, 2]
    assert np.array_equal(np.concatenate(int4_tables), model.rows[RowFormat.INT4])
    assert np.array_equal(model.table_rows("table_1"), model.rows[RowFormat.FP32])


def test_unknown_table_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        tiny_model().table_rows("nowhere")


def test_weight_bytes_counts_every_tensor() -> None:
    model = tiny_model(SHAPES["one layer each"])
    assert model.weight_bytes == 31 * 12 + 4 * (3 * 8 + 8) + 4 * (14 + 1)


def test_weights_that_do_not_fit_the_specification_cannot_be_built() -> None:
    model = tiny_model()
    first, *rest = model.dense_layers
    with pytest.raises(SpecError, match=r"rows.int8 is uint8 \[30, 12\], want uint8 \[31, 12\]"):
        dataclasses.replace(model, rows={RowFormat.INT8: model.rows[RowFormat.INT8][:-1]})
    with pytest.raises(SpecError, match="rows are stored as nothing but the tables say int8"):
        dataclasses.replace(model, rows={})
    with pytest.raises(SpecError, match="dense arch has 1 layers of weights for 2 widths"):
        dataclasses.replace(model, dense_layers=(first,))
    with pytest.raises(SpecError, match=r"dense.0.weight is float32 \[3, 10\]"):
        dataclasses.replace(model, dense_layers=(LinearLayer(first.weight.T, first.bias), *rest))
    with pytest.raises(SpecError, match=r"dense.0.bias is float32 \[9\], want float32 \[10\]"):
        dataclasses.replace(model, dense_layers=(LinearLayer(first.weight, first.bias[:-1]), *rest))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert "cannot read" in refusal(tmp_path / "nothing.safetensors")


def test_folder_is_refused(tmp_path: Path) -> None:
    refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip file, say", b"\xff" * 64, b"\x02" + b"\0" * 7 + b"{}"])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)
    refusal(path)


def test_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": np.ones(3, np.float32)}, path, {"format": "pt"})
    assert "not a narsil-graph model" in refusal(path)


def test_newer_format_says_to_upgrade(saved: Path) -> None:
    with_metadata(saved, lambda metadata: metadata.update(narsil="2"))
    assert "of model format 2, this version reads 1: upgrade narsil-graph" in refusal(saved)


@pytest.mark.parametrize("key", ["narsil", "spec", "sha256"])
def test_lacking_metadata_is_refused(key: str, saved: Path) -> None:
    with_metadata(saved, lambda metadata: metadata.pop(key))
    refusal(saved)


@pytest.mark.parametrize("spec", ["", "{", "3", "{}", "[" * 200_000, '{"name": 1e999}'], ids=lambda text: text[:9])
def test_unreadable_specification_is_refused(spec: str, saved: Path) -> None:
    with_metadata(saved, lambda metadata: metadata.update(spec=spec))
    assert "is damaged" in refusal(saved)


def test_other_weights_than_stated_are_refused(saved: Path) -> None:
    with_metadata(saved, lambda metadata: metadata.update(sha256="0" * 64))
    assert "SHA-256" in refusal(saved)


def test_tensor_of_another_type_is_refused(tmp_path: Path, saved: Path) -> None:
    content = saved.read_bytes()
    metadata = json.loads(content[HEADER_LENGTH_BYTES : header_end(content)])["__metadata__"]
    path = tmp_path / "other.safetensors"
    save_file({"rows.int8": np.ones((31, 12), np.int64)}, path, metadata)
    assert "rows.int8 is of type I64" in refusal(path)


def test_every_truncation_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    ends = [*range(0, header_end(content), 97), *range(header_end(content), len(content), 61), len(content) - 1]
    for end in ends:
        saved.write_bytes(content[:end])
        refusal(saved)


def test_every_flipped_bit_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    tensors = range(header_end(content), len(content), 37)
    for number, position in enumerate([*range(header_end(content)), *tensors]):
        flipped = bytearray(content)
        flipped[position] ^= 1 << number % 8
        saved.write_bytes(flipped)
        refusal(saved)


def test_model_of_the_wrong_weights_is_not_even_built(saved: Path) -> None:
    other = SHAPES["3 vectors"].spec()
    with_metadata(saved, lambda metadata: metadata.update(spec=json.dumps(other.to_dict())))
    assert "want uint8 [46, 12]" in refusal(saved)

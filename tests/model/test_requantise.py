"""What a model keeps when its rows are stored in another format, and what cannot be stored."""

import dataclasses

import numpy as np
import pytest

from narsil_graph.errors import Failure
from narsil_graph.model.requantise import FLOAT16_MAX, with_rows
from narsil_graph.model.rows import dequantise, quantise
from narsil_graph.model.spec import RowFormat
from narsil_graph.model.weights import Model
from tests.engine.tiny import FP32, INT4, INT8, MIXED, SHAPES, tiny_model


def reaching(value: float) -> Model:
    """A model of float32 rows whose second table holds one ``value``."""
    model = tiny_model(SHAPES["fp32"])
    rows = model.rows[FP32].copy()
    rows.view(np.float32)[model.spec.tables[0].rows, 3] = value
    return dataclasses.replace(model, rows={FP32: rows})


@pytest.mark.parametrize("row_format", list(RowFormat))
@pytest.mark.parametrize("shape", ["fp32", "mixed formats and poolings", "shared tables", "dim 12, int4"])
def test_every_table_is_stored_anew_from_the_values_it_stood_for(shape: str, row_format: RowFormat) -> None:
    model = tiny_model(SHAPES[shape])
    made = with_rows(model, row_format)
    assert set(made.rows) == {row_format}
    for before, after in zip(model.spec.tables, made.spec.tables, strict=True):
        assert after == dataclasses.replace(before, format=row_format)
        if before.format is not row_format:
            values = dequantise(model.table_rows(before.name), before.format)
            assert np.array_equal(made.table_rows(after.name), quantise(values, row_format))


@pytest.mark.parametrize("row_format", list(RowFormat))
def test_rows_already_so_stored_keep_their_bytes(row_format: RowFormat) -> None:
    model = tiny_model(MIXED)
    made = with_rows(model, row_format)
    kept = [table.name for table in model.spec.tables if table.format is row_format]
    assert kept
    assert all(made.table_rows(name).tobytes() == model.table_rows(name).tobytes() for name in kept)


def test_the_same_format_is_the_same_model() -> None:
    model = tiny_model()
    assert with_rows(model, INT8).version == model.version


def test_float32_rows_stand_for_exactly_what_was_stored() -> None:
    model = tiny_model()
    there_and_back = with_rows(with_rows(model, FP32), INT8)
    assert np.array_equal(dequantise(with_rows(model, FP32).rows[FP32], FP32), dequantise(model.rows[INT8], INT8))
    assert there_and_back.spec == model.spec


def test_everything_but_the_rows_is_kept() -> None:
    model = tiny_model(SHAPES["mixed poolings"])
    model = dataclasses.replace(model, spec=dataclasses.replace(model.spec, activation_ranges=((-1.0, 2.0),) * 4))
    made = with_rows(model, INT4)
    tables = model.spec.tables
    assert dataclasses.replace(made.spec, tables=tables) == model.spec
    assert made.dense_layers is model.dense_layers
    assert made.over_layers is model.over_layers


@pytest.mark.parametrize("row_format", [INT8, INT4, RowFormat.FP16])
@pytest.mark.parametrize(("value", "said"), [(65600.0, "65600"), (-1e6, "1e\\+06"), (np.nan, "nan"), (np.inf, "inf")])
def test_values_beyond_float16_are_refused_by_table_and_value(row_format: RowFormat, value: float, said: str) -> None:
    words = (
        f"table 'table_1' cannot be stored as {row_format.value}: its values reach {said}, and float16 ends at 65504"
    )
    with pytest.raises(Failure, match=words):
        with_rows(reaching(value), row_format)


@pytest.mark.parametrize("row_format", list(RowFormat))
def test_the_largest_float16_is_stored(row_format: RowFormat) -> None:
    model = with_rows(reaching(FLOAT16_MAX), row_format)
    assert np.isfinite(dequantise(model.table_rows("table_1"), row_format)).all()


def test_mixed_formats_become_one_kernel() -> None:
    assert len(tiny_model(MIXED).rows) == 4
    assert len(with_rows(tiny_model(MIXED), INT8).rows) == 1

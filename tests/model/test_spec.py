"""A specification that describes no servable model cannot be built, and one that does survives JSON."""

import dataclasses
import json
from typing import Any

import pytest

from narsil_graph.model.spec import INT32_MAX, ModelSpec, Pooling, RowFormat, SparseFeature, SpecError, TableSpec
from tests.engine.tiny import SHAPES, Shape

SPEC = SHAPES["4 vectors"].spec()
MIXED = dataclasses.replace(
    SHAPES["shared tables, mixed"].spec(), activation_ranges=((0.0, 1.0), (-0.5, 0.5), (0.0, 0.0), (0.0, 2.5))
)


def changed(**fields: Any) -> ModelSpec:
    return dataclasses.replace(SPEC, **fields)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"dense_features": ()}, "at least one dense feature"),
        ({"tables": ()}, "at least one table"),
        ({"sparse_features": ()}, "at least one sparse feature"),
        ({"dense_features": ("a", "b", "a")}, "two dense features have the same name"),
        ({"tables": SPEC.tables + SPEC.tables[:1]}, "two tables have the same name"),
        ({"sparse_features": SPEC.sparse_features * 2}, "two sparse features have the same name"),
        ({"dense_arch": ()}, "dense_arch needs at least one layer"),
        ({"over_arch": ()}, "over_arch needs at least one layer"),
        ({"dense_arch": (0, 8)}, "dense_arch width must be an integer from 1"),
        ({"over_arch": (True, 1)}, "over_arch width must be an integer from 1"),
        ({"over_arch": (12, 2)}, "must end in width 1"),
        ({"dense_arch": (10, 4)}, "dense width 4"),
        ({"sparse_features": (*SPEC.sparse_features, SparseFeature("x", "nowhere"))}, "unknown table 'nowhere'"),
        ({"sparse_features": SPEC.sparse_features[:2]}, "no sparse feature uses the table 'table_2'"),
        ({"activation_ranges": ((0.0, 1.0),)}, "has 1 entries"),
        ({"activation_ranges": ((0.0, 1.0), (1.0, 0.5), (0.0, 1.0), (0.0, 1.0))}, "low is not below its high"),
        ({"activation_ranges": ((0.0, 1.0), (float("nan"), 0.5), (0.0, 1.0), (0.0, 1.0))}, "low is not below its high"),
    ],
)
def test_wrong_specification_cannot_be_built(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        changed(**fields)


@pytest.mark.parametrize(
    ("rows", "dim", "sentence"),
    [
        (0, 8, "rows must be an integer from 1"),
        (INT32_MAX + 1, 8, "rows must be an integer from 1"),
        (1.5, 8, "rows must be an integer"),
        (5, 0, "dim must be an integer from 1"),
        (5, 6, "multiple of 4, got 6"),
    ],
)
def test_wrong_table_cannot_be_built(rows: Any, dim: int, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        TableSpec("t", rows, dim)


def test_tables_of_different_dims_cannot_be_built() -> None:
    tables = (*SPEC.tables[:2], dataclasses.replace(SPEC.tables[2], dim=16))
    with pytest.raises(SpecError, match=r"table dims \[8, 16\]"):
        changed(tables=tables)


def test_more_rows_than_int32_can_number_cannot_be_built() -> None:
    tables = tuple(dataclasses.replace(table, rows=INT32_MAX // 2) for table in SPEC.tables)
    with pytest.raises(SpecError, match="more than 2\\^31-1 rows in all"):
        changed(tables=tables)


def test_row_bytes_are_those_of_fbgemm() -> None:
    assert {row_format: row_format.row_bytes(64) for row_format in RowFormat} == {
        RowFormat.FP32: 256,
        RowFormat.FP16: 128,
        RowFormat.INT8: 68,
        RowFormat.INT4: 36,
    }


def test_widths_follow_from_features_and_archs() -> None:
    spec = Shape(table_rows=(5, 6), lookups=(1, 0, 1), dim=8, dense_hidden=(10,), over_hidden=(12, 7)).spec()
    assert (spec.dim, spec.vectors, spec.over_width) == (8, 4, 8 + 6)
    assert spec.dense_shapes() == ((10, 3), (8, 10))
    assert spec.over_shapes() == ((12, 14), (7, 12), (1, 7))


def test_feature_tables_are_in_feature_order() -> None:
    spec = SHAPES["shared tables"].spec()
    assert [table.name for table in spec.feature_tables] == ["table_1", "table_2", "table_1", "table_0", "table_2"]


@pytest.mark.parametrize("spec", [SPEC, MIXED], ids=["plain", "mixed"])
def test_specification_survives_json(spec: ModelSpec) -> None:
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_json_form_names_formats_and_poolings_in_words() -> None:
    table = TableSpec("t", 5, 8, RowFormat.INT4, Pooling.MEAN)
    tables = dataclasses.replace(SPEC, tables=(table,), sparse_features=(SparseFeature("f", "t"),)).to_dict()["tables"]
    assert tables == [{"name": "t", "rows": 5, "dim": 8, "format": "int4", "pooling": "mean"}]


@pytest.mark.parametrize("key", list(SPEC.to_dict()))
def test_missing_key_is_named(key: str) -> None:
    data = SPEC.to_dict()
    del data[key]
    with pytest.raises(SpecError, match=f"lacks '{key}'"):
        ModelSpec.from_dict(data)


@pytest.mark.parametrize("key", list(SPEC.to_dict()))
@pytest.mark.parametrize("wrong", [None, 3, "text", [None], [[1, 2, 3]], {"a": 1}, [1.5], [[0, 1]]], ids=repr)
def test_wrong_type_is_refused(key: str, wrong: object) -> None:
    if key == "name" and wrong == "text":
        wrong = ["text"]
    with pytest.raises(SpecError):
        ModelSpec.from_dict({**SPEC.to_dict(), key: wrong})


@pytest.mark.parametrize("key", ["name", "rows", "dim", "format", "pooling"])
@pytest.mark.parametrize("wrong", [None, "int9", True, []], ids=repr)
def test_wrong_type_inside_a_table_is_refused(key: str, wrong: object) -> None:
    if key == "name" and wrong == "int9":
        wrong = 9
    tables = SPEC.to_dict()["tables"]
    assert isinstance(tables, list)
    tables[0][key] = wrong
    with pytest.raises(SpecError):
        ModelSpec.from_dict({**SPEC.to_dict(), "tables": tables})


@pytest.mark.parametrize("data", [None, 3, [], {1: 2}])
def test_what_is_no_object_is_refused(data: object) -> None:
    with pytest.raises(SpecError, match="malformed"):
        ModelSpec.from_dict(data)

"""Small models of every shape, made from a seed, and the plain loops that the tests measure the code against."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from narsil_graph.model.rows import quantise
from narsil_graph.model.spec import ModelSpec, Pooling, RowFormat, SparseFeature, TableSpec
from narsil_graph.model.weights import LinearLayer, Model
from narsil_transport.messages import Ids, InferRequest

SUM, MEAN = Pooling.SUM, Pooling.MEAN
FP32, FP16, INT8, INT4 = RowFormat.FP32, RowFormat.FP16, RowFormat.INT8, RowFormat.INT4


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a tiny model looks like; ``formats`` and ``poolings`` are dealt to the tables in turn."""

    table_rows: tuple[int, ...] = (17, 5, 9)
    lookups: tuple[int, ...] = ()
    """The table of each feature; empty for one feature per table."""
    formats: tuple[RowFormat, ...] = (INT8,)
    poolings: tuple[Pooling, ...] = (SUM,)
    dim: int = 8
    dense_features: int = 3
    dense_hidden: tuple[int, ...] = (10,)
    over_hidden: tuple[int, ...] = (12,)

    def spec(self) -> ModelSpec:
        tables = tuple(
            TableSpec(f"table_{number}", rows, self.dim, row_format, pooling)
            for number, (rows, row_format, pooling) in enumerate(
                zip(self.table_rows, cycle(self.formats), cycle(self.poolings), strict=False)
            )
        )
        lookups = self.lookups or tuple(range(len(tables)))
        return ModelSpec(
            name="tiny",
            dense_features=tuple(f"dense_{number}" for number in range(self.dense_features)),
            tables=tables,
            sparse_features=tuple(SparseFeature(f"f{n}", tables[table].name) for n, table in enumerate(lookups)),
            dense_arch=(*self.dense_hidden, self.dim),
            over_arch=(*self.over_hidden, 1),
        )


MIXED = Shape(formats=(INT4, FP32, INT8, FP16), poolings=(SUM, MEAN, SUM), table_rows=(3, 7, 4, 9, 2))
SHAPES = {
    "2 vectors": Shape(table_rows=(6,)),
    "3 vectors": Shape(table_rows=(6, 40)),
    "4 vectors": Shape(),
    "5 vectors": Shape(table_rows=(1, 4, 3, 30)),
    "27 vectors": Shape(table_rows=tuple(range(2, 28)), dim=16),
    "28 vectors": Shape(table_rows=tuple(range(2, 29))),
    "one dense feature, dim 4": Shape(dim=4, dense_features=1),
    "dim 12, int4": Shape(dim=12, formats=(INT4,)),
    "dim 64": Shape(dim=64, dense_features=13, dense_hidden=(32,), over_hidden=(48,)),
    "fp32": Shape(formats=(FP32,)),
    "fp16": Shape(formats=(FP16,)),
    "mean": Shape(poolings=(MEAN,)),
    "mixed poolings": Shape(poolings=(MEAN, SUM)),
    "mixed formats": Shape(formats=(INT4, FP32)),
    "mixed formats and poolings": MIXED,
    "shared tables": Shape(lookups=(1, 2, 1, 0, 2)),
    "shared tables, mixed": Shape(lookups=(1, 2, 1, 0, 2), formats=(INT8, FP16), poolings=(SUM, MEAN, MEAN)),
    "one layer each": Shape(dense_hidden=(), over_hidden=()),
    "three layers each": Shape(dense_hidden=(16, 12), over_hidden=(20, 9)),
}


def tiny_model(shape: Shape = SHAPES["4 vectors"], *, seed: int = 0) -> Model:
    """Random weights of a scale that spreads the scores without saturating them."""
    spec, rng = shape.spec(), np.random.default_rng(seed)
    # Dots grow with dim: this keeps one at about 1/2 whatever dim is.
    spread = np.float32(0.7 / spec.dim**0.25)
    stored = {
        row_format: np.concatenate(
            [
                quantise(rng.standard_normal((table.rows, table.dim), np.float32) * spread, row_format)
                for table in spec.tables
                if table.format is row_format
            ]
        )
        for row_format in {table.format for table in spec.tables}
    }
    return Model(
        spec=spec,
        rows=stored,
        dense_layers=tuple(linear(out, width, rng) for out, width in spec.dense_shapes()),
        over_layers=tuple(linear(out, width, rng) for out, width in spec.over_shapes()),
    )


def linear(out: int, width: int, rng: np.random.Generator) -> LinearLayer:
    scale = np.float32(np.sqrt(1.5 / width))
    return LinearLayer(
        weight=rng.standard_normal((out, width), np.float32) * scale,
        bias=rng.standard_normal(out, np.float32) * np.float32(0.2),
    )


def one_hot(dense: NDArray[np.float32], ids: Ids) -> InferRequest:
    return InferRequest(0, "", None, None, dense, ids, None, None)


def multi_hot(dense: NDArray[np.float32], bags: list[list[list[int]]], dtype: type = np.int32) -> InferRequest:
    """Row r's bag of feature t is ``bags[r][t]``."""
    lengths = np.array([[len(bag) for bag in row] for row in bags], np.int32)
    values: Ids = np.array([value for row in bags for bag in row for value in bag], dtype)
    return InferRequest(0, "", None, None, dense, None, lengths, values)


def bags_of(request: InferRequest) -> list[list[list[int]]]:
    """The ids of a request as ``[row][feature]`` lists."""
    if request.ids is not None:
        return [[[int(value)] for value in row] for row in request.ids]
    assert request.lengths is not None and request.values is not None
    values: Iterator[int] = iter(request.values.tolist())
    return [[[next(values) for _ in range(length)] for length in row] for row in request.lengths.tolist()]

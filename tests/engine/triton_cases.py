"""Inputs for the fused Triton kernel and the plain loops that its results are measured against."""

import importlib.util
from typing import Any

import numpy as np
import torch
from torch import Tensor

from narsil_graph.engine.triton_interaction import TritonInteraction
from narsil_graph.model.rows import dequantise
from narsil_graph.model.spec import Pooling
from narsil_graph.model.weights import Model
from tests.engine.tiny import FP16, MEAN, SHAPES, SUM, Shape

KERNEL_MODULE = "narsil_graph.engine.triton_kernel"
INT32_MAX = 2**31 - 1
ONE_FORMAT = {name: shape for name, shape in SHAPES.items() if len(shape.formats) == 1} | {
    "dim 12, int8": Shape(dim=12),
    "dim 20, fp16": Shape(dim=20, formats=(FP16,)),
    "two tiles of vectors and of columns": Shape(table_rows=(3, 5) * 33, dim=68),
    "shared tables, mixed poolings": Shape(lookups=(1, 2, 1, 0, 2), poolings=(SUM, MEAN, MEAN)),
}
# Half a unit in the last place of values up to 8, twice: once for the vectors' dots, once for the result.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2**-8, torch.bfloat16: 2**-5}
Bags = list[list[list[int]]]


def fresh_kernel_module() -> Any:
    """A copy of the kernel's module of its own, which sees the environment as it is now."""
    spec = importlib.util.find_spec(KERNEL_MODULE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def padded_rows(model: Model) -> tuple[Tensor, Tensor, int]:
    """(rows, begins, row_bytes) of a model of one row format, each row padded to 16 bytes with ones."""
    ((_, stored),) = model.rows.items()
    row_bytes = -(-stored.shape[1] // 16) * 16
    padded = np.full((len(stored), row_bytes), 255, np.uint8)
    padded[:, : stored.shape[1]] = stored
    begins, total = dict[str, int](), 0
    for table in model.spec.tables:
        begins[table.name] = total * row_bytes
        total += table.rows
    of_features = [begins[table.name] for table in model.spec.feature_tables]
    return torch.from_numpy(padded).view(-1), torch.tensor(of_features, dtype=torch.int64), row_bytes


def fused(
    model: Model, dtype: torch.dtype = torch.float32, *, tf32: bool = False, device: str = "cpu"
) -> TritonInteraction:
    rows, begins, row_bytes = padded_rows(model)
    return TritonInteraction(
        spec=model.spec, rows=rows.to(device), begins=begins.to(device), row_bytes=row_bytes, dtype=dtype, tf32=tf32
    )


def plain(model: Model, bottom: Tensor, bags: Bags) -> Tensor:
    """The same by loops in float64, on vectors rounded to bottom's dtype."""
    tables = model.spec.feature_tables
    values = [dequantise(model.table_rows(table.name), table.format).astype(np.float64) for table in tables]
    pooled = np.zeros((len(bags), len(tables), model.spec.dim))
    for row, features in enumerate(bags):
        for feature, bag in enumerate(features):
            divisor = max(1, len(bag)) if tables[feature].pooling is Pooling.MEAN else 1
            pooled[row, feature] = values[feature][bag].sum(axis=0) / divisor
    vectors = torch.cat([bottom[:, None], torch.from_numpy(pooled).to(bottom.dtype)], dim=1).double()
    left, right = torch.triu_indices(model.spec.vectors, model.spec.vectors, 1)
    return torch.cat([bottom.double(), (vectors @ vectors.mT)[:, left, right]], dim=1)


def random_bottom(model: Model, rows: int, dtype: torch.dtype = torch.float32) -> Tensor:
    noise = np.random.default_rng(5).standard_normal((rows, model.spec.dim), np.float32)
    return torch.from_numpy(noise / model.spec.dim**0.25).to(dtype)


def random_bags(model: Model, rows: int, longest: int) -> Bags:
    """Bags of 0 to ``longest`` ids, which reach every table's last row."""
    rng = np.random.default_rng(6)
    sizes = [table.rows for table in model.spec.feature_tables]
    bags = [[rng.integers(0, size, rng.integers(0, longest + 1)).tolist() for size in sizes] for _ in range(rows)]
    return [*bags, [[size - 1] for size in sizes]]


def flat(bags: Bags) -> tuple[Tensor, Tensor]:
    """Sample-major (values, offsets) of ``bags``, with a poisoned tail of ids."""
    lengths = [len(bag) for row in bags for bag in row]
    values = [value for row in bags for bag in row for value in bag] + [INT32_MAX] * 3
    return torch.tensor(values, dtype=torch.int32), torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)


def one_id_bags(model: Model, rows: int) -> Bags:
    rng = np.random.default_rng(7)
    return [[[int(rng.integers(table.rows))] for table in model.spec.feature_tables] for _ in range(rows)]


def assert_close(found: Tensor, model: Model, bottom: Tensor, bags: Bags) -> None:
    assert found.dtype == bottom.dtype
    wanted = plain(model, bottom, bags)
    assert wanted.abs().max() < 8
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=TOLERANCES[bottom.dtype])

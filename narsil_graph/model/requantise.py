"""The same model with its embedding rows stored in another format."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from narsil_graph.errors import Failure
from narsil_graph.model.rows import dequantise, quantise
from narsil_graph.model.spec import RowFormat, TableSpec
from narsil_graph.model.weights import Model

FLOAT16_MAX = float(np.finfo(np.float16).max)


def with_rows(model: Model, row_format: RowFormat) -> Model:
    """``model`` with every table stored as ``row_format``; all else is kept, and so are rows already so stored.

    What an earlier format lost stays lost: convert from the model with the finest rows. Raises Failure where a table
    holds values that the format has no number for.
    """
    spec = model.spec
    rows = np.empty((sum(table.rows for table in spec.tables), row_format.row_bytes(spec.dim)), np.uint8)
    begin = 0
    for table in spec.tables:
        rows[begin : begin + table.rows] = _stored(table, model.table_rows(table.name), row_format)
        begin += table.rows
    tables = tuple(dataclasses.replace(table, format=row_format) for table in spec.tables)
    return dataclasses.replace(model, spec=dataclasses.replace(spec, tables=tables), rows={row_format: rows})


def _stored(table: TableSpec, rows: NDArray[np.uint8], row_format: RowFormat) -> NDArray[np.uint8]:
    if table.format is row_format:
        return rows
    values = dequantise(rows, table.format)
    largest = float(np.abs(values).max())
    # Quantised rows begin with their scale and bias as float16. A NaN is not within the range either.
    if row_format is not RowFormat.FP32 and not largest <= FLOAT16_MAX:
        raise Failure(
            f"table {table.name!r} cannot be stored as {row_format.value}: "
            f"its values reach {largest:g}, and float16 ends at {FLOAT16_MAX:g}"
        )
    return quantise(values, row_format)

"""A model for the reference model's requests whose forward is next to nothing: it leaves the caches as a GPU's does."""

from pathlib import Path

import numpy as np

from narsil_graph.model.rows import quantise
from narsil_graph.model.spec import ModelSpec, SparseFeature, TableSpec
from narsil_graph.model.weights import LinearLayer, Model, save_model

DIM, HIDDEN = 4, 8


def save_small(like: ModelSpec, path: Path) -> Path:
    """Write it: the same features and rows per table as ``like``, vectors of 4, and 8 hidden units."""
    row_format = like.tables[0].format
    spec = ModelSpec(
        name="small",
        dense_features=like.dense_features,
        tables=tuple(TableSpec(table.name, table.rows, DIM, row_format) for table in like.tables),
        sparse_features=tuple(SparseFeature(feature.name, feature.table) for feature in like.sparse_features),
        dense_arch=(HIDDEN, DIM),
        over_arch=(HIDDEN, 1),
    )
    stored = [quantise(np.zeros((table.rows, DIM), np.float32), row_format) for table in spec.tables]
    layers = [
        tuple(LinearLayer(np.zeros((out, width), np.float32), np.zeros(out, np.float32)) for out, width in shapes)
        for shapes in (spec.dense_shapes(), spec.over_shapes())
    ]
    save_model(
        Model(spec, rows={row_format: np.concatenate(stored)}, dense_layers=layers[0], over_layers=layers[1]), path
    )
    return path

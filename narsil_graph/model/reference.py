"""The benchmark model: TorchRec's DLRM on 26 tables of 100,000 rows, with random weights from a seed."""

import numpy as np

from narsil_graph.model.rows import quantise
from narsil_graph.model.spec import ModelSpec, RowFormat, SparseFeature, TableSpec
from narsil_graph.model.weights import LinearLayer, Model

FEATURES, ROWS, DIM, DENSE = 26, 100_000, 64, 13


def reference_model(*, seed: int, rows: int = ROWS, row_format: RowFormat = RowFormat.INT8) -> Model:
    """26 tables x ``rows`` x dim 64, dense arch 13-512-256-64, 351 dots, over arch 415-512-512-256-1."""
    rng = np.random.default_rng(seed)
    spec = ModelSpec(
        name="reference",
        dense_features=tuple(f"int_{number}" for number in range(DENSE)),
        tables=tuple(TableSpec(f"t_cat_{number}", rows, DIM, row_format) for number in range(FEATURES)),
        sparse_features=tuple(SparseFeature(f"cat_{number}", f"t_cat_{number}") for number in range(FEATURES)),
        dense_arch=(512, 256, DIM),
        over_arch=(512, 512, 256, 1),
    )
    # The spread keeps the logits near the middle of the sigmoid, where errors show.
    stored = [quantise(rng.standard_normal((rows, DIM), np.float32) * 0.2, row_format) for _ in range(FEATURES)]
    return Model(
        spec=spec,
        rows={row_format: np.concatenate(stored)},
        dense_layers=_random_layers(spec.dense_shapes(), rng),
        over_layers=_random_layers(spec.over_shapes(), rng),
    )


def _random_layers(shapes: tuple[tuple[int, int], ...], rng: np.random.Generator) -> tuple[LinearLayer, ...]:
    """He's initialisation, which keeps the scale of ReLU layers."""
    return tuple(
        LinearLayer(
            weight=(rng.standard_normal((out, width), np.float32) * np.sqrt(2.0 / width)).astype(np.float32),
            bias=rng.standard_normal(out, np.float32) * np.float32(0.1),
        )
        for out, width in shapes
    )

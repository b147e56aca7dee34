"""What a model takes: its specification as admission's limits."""

import numpy as np

from narsil_graph.model.spec import ModelSpec
from narsil_transport.admission import ModelLimits


def limits_of(
    spec: ModelSpec,
    *,
    rows_max: int,
    ids_per_row_max: int,
    expanded_ids_max: int = 1 << 20,
    allow_nonfinite: bool = False,
) -> ModelLimits:
    """The limits of requests for this model; the sizes are the server's (or the caller's) to set."""
    return ModelLimits(
        name=spec.name,
        dense_width=len(spec.dense_features),
        table_rows=np.array([table.rows for table in spec.feature_tables], np.int64),
        feature_names=tuple(feature.name for feature in spec.sparse_features),
        rows_max=rows_max,
        ids_per_row_max=ids_per_row_max,
        expanded_ids_max=expanded_ids_max,
        allow_nonfinite=allow_nonfinite,
    )

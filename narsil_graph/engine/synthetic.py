"""Random valid inputs for a model: what start-up timing, the doctor and the benchmarks score when no one has asked."""

import numpy as np

from narsil_graph.model.spec import ModelSpec
from narsil_transport.wire import InferRequest


def one_hot_request(spec: ModelSpec, rows: int, rng: np.random.Generator) -> InferRequest:
    """``rows`` rows with one uniform random id per feature (the worst case for caches) and dense values in [0, 1)."""
    table_rows = [table.rows for table in spec.feature_tables]
    return InferRequest(
        request_id=0,
        model="",
        deadline_us=None,
        traceparent=None,
        dense=rng.random((rows, len(spec.dense_features)), np.float32),
        ids=rng.integers(0, table_rows, (rows, len(table_rows)), np.int32),
        lengths=None,
        values=None,
    )


def multi_hot_request(spec: ModelSpec, rows: int, ids_per_bag_max: int, rng: np.random.Generator) -> InferRequest:
    """``rows`` rows whose bags hold 0 to ``ids_per_bag_max`` random ids."""
    table_rows = np.array([table.rows for table in spec.feature_tables])
    lengths = rng.integers(0, ids_per_bag_max + 1, (rows, len(table_rows)), np.int32)
    bounds = np.repeat(np.tile(table_rows, rows), lengths.ravel())
    return InferRequest(
        request_id=0,
        model="",
        deadline_us=None,
        traceparent=None,
        dense=rng.random((rows, len(spec.dense_features)), np.float32),
        ids=None,
        lengths=lengths,
        values=rng.integers(0, bounds, dtype=np.int32),
    )

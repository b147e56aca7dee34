"""Random valid inputs for a model: what start-up timing, the doctor and the benchmarks score when no one has asked."""

import numpy as np

from narsil_graph.model.spec import ModelSpec
from narsil_transport.messages import InferRequest, Lengths


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
    features = len(spec.sparse_features)
    return bags_request(spec, rng.integers(0, ids_per_bag_max + 1, (rows, features), np.int32), rng)


def bags_request(spec: ModelSpec, lengths: Lengths, rng: np.random.Generator) -> InferRequest:
    """Random ids in bags of these ``lengths`` int32 [n, T]."""
    ends = np.repeat(np.tile([table.rows for table in spec.feature_tables], len(lengths)), lengths.ravel())
    dense = rng.random((len(lengths), len(spec.dense_features)), np.float32)
    return InferRequest(0, "", None, None, dense, None, lengths, rng.integers(0, ends, dtype=np.int32))

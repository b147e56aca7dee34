"""On the device as on the host: the same bags in key-major order, in shapes that the bucket alone decides."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from narsil_graph.engine.arena import Arena, RowRange
from narsil_graph.engine.eager import SampleWeights, key_major
from narsil_graph.engine.forward import means_among_sums
from narsil_graph.engine.reorder import Reorder
from narsil_graph.engine.synthetic import multi_hot_request, one_hot_request
from narsil_graph.model.spec import ModelSpec
from narsil_transport.buckets import Bucket
from tests.engine.tiny import MEAN, SUM, Shape

SPEC = Shape(table_rows=(17, 5, 9), poolings=(SUM, MEAN, SUM)).spec()
FEATURES = 3
POISON = 2**31 - 1


def filled(bucket: Bucket, ranges: list[RowRange]) -> Arena:
    arena = Arena(bucket, dense_width=3, id_bases=np.zeros(FEATURES, np.int32), lead=0)
    arena.fill(ranges)
    return arena


def bags_of(indices: Tensor, offsets: Tensor) -> list[list[int]]:
    begins, ends = offsets[:-1].tolist(), offsets[1:].tolist()
    return [indices[begin:end].tolist() for begin, end in zip(begins, ends, strict=True)]


def first_rows(bags: list[list[int]], bucket: Bucket, rows: int) -> list[list[int]]:
    """The bags of the first ``rows`` rows of each feature."""
    return [bags[feature * bucket.rows + row] for feature in range(FEATURES) for row in range(rows)]


def reorder(bucket: Bucket, spec: ModelSpec = SPEC) -> Reorder:
    return Reorder(spec, bucket, torch.clone)


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 6), longest=st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_bags_are_those_of_the_host(seed: int, rows: int, longest: int) -> None:
    bucket, rng = Bucket(7, 7 * 12), np.random.default_rng(seed)
    request = multi_hot_request(SPEC, rows, longest, rng)
    arena = filled(bucket, [(request, 0, rows)])
    indices, offsets, weights = reorder(bucket).bags(torch.from_numpy(arena.values), torch.from_numpy(arena.offsets))
    host_indices, host_offsets = key_major(arena, FEATURES)
    assert indices.shape == (bucket.ids,)
    assert offsets.shape == (FEATURES * bucket.rows + 1,)
    assert indices.dtype == offsets.dtype == torch.int32
    assert first_rows(bags_of(indices, offsets), bucket, rows) == bags_of(host_indices, host_offsets)
    assert int(offsets[-1]) == arena.ids
    assert weights is not None
    expected = SampleWeights(means_among_sums(SPEC))(host_offsets)
    assert expected is not None
    assert torch.equal(weights[: arena.ids], expected)


def test_one_id_per_bag_is_transposed() -> None:
    bucket, rng = Bucket(5, 5 * FEATURES), np.random.default_rng(0)
    request = one_hot_request(SPEC, 4, rng)
    assert request.ids is not None
    arena = filled(bucket, [(request, 0, 4)])
    indices, offsets = reorder(bucket).one_id(torch.from_numpy(arena.values))
    assert indices.view(FEATURES, 5)[:, :4].tolist() == request.ids.T.tolist()
    assert offsets.tolist() == list(range(FEATURES * 5 + 1))
    assert indices.is_contiguous()


@pytest.mark.parametrize("kind", ["one id", "bags"])
def test_poisoned_padding_stays_inside_its_table(kind: str) -> None:
    bucket, rng = Bucket(5, 40), np.random.default_rng(0)
    arena = filled(bucket, [(one_hot_request(SPEC, 2, rng), 0, 2)])
    arena.values[2 * FEATURES :] = POISON
    made = reorder(bucket)
    if kind == "one id":
        indices, _ = made.one_id(torch.from_numpy(arena.values))
        for table, ids in zip(SPEC.feature_tables, indices.view(FEATURES, 5), strict=True):
            assert int(ids.max()) < table.rows
    else:
        indices, _, _ = made.bags(torch.from_numpy(arena.values), torch.from_numpy(arena.offsets))
        assert int(indices.max()) < max(table.rows for table in SPEC.tables)


def test_id_beyond_its_own_table_is_clamped_to_the_last_row() -> None:
    bucket = Bucket(1, 8)
    arena = filled(bucket, [(one_hot_request(SPEC, 1, np.random.default_rng(0)), 0, 1)])
    arena.values[:FEATURES] = [16, 5, 100]
    made = reorder(bucket)
    one_id, _ = made.one_id(torch.from_numpy(arena.values))
    bags, _, _ = made.bags(torch.from_numpy(arena.values), torch.from_numpy(arena.offsets))
    assert one_id.tolist() == bags[:FEATURES].tolist() == [16, 4, 8]


def test_pure_sums_need_no_weights() -> None:
    spec, bucket = Shape().spec(), Bucket(2, 12)
    arena = filled(bucket, [(one_hot_request(spec, 2, np.random.default_rng(0)), 0, 2)])
    _, _, weights = reorder(bucket, spec).bags(torch.from_numpy(arena.values), torch.from_numpy(arena.offsets))
    assert weights is None

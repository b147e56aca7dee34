"""The eager forward computes the model, and random requests are ones that the model can score."""

import numpy as np
import pytest

from narsil_graph.engine.arena import RowRange
from narsil_graph.engine.eager import EagerForward, key_major
from narsil_graph.engine.exact import exact_scores
from narsil_graph.engine.synthetic import multi_hot_request, one_hot_request
from narsil_transport.buckets import Bucket
from tests.engine.tiny import MIXED, SHAPES, Shape, bags_of, multi_hot, tiny_model

SHAPED = pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))


@SHAPED
def test_eager_scores_are_the_exact_ones(shape: Shape) -> None:
    model, rng = tiny_model(shape), np.random.default_rng(1)
    ones, bags = one_hot_request(model.spec, 6, rng), multi_hot_request(model.spec, 7, 3, rng)
    eager = EagerForward(model)
    (slot,) = eager.capture(Bucket(16, 16 * 3 * len(model.spec.sparse_features)))
    for batch in ([ones], [bags], [ones, bags], [bags, ones]):
        pieces: list[RowRange] = [(request, 0, request.rows) for request in batch]
        slot.arena.fill(pieces)
        eager.launch(slot)
        exact = np.concatenate([exact_scores(model, request) for request in batch])
        assert np.abs(eager.scores(slot)[: len(exact)] - exact).max() <= 1e-6
        assert np.ptp(exact) > 1e-3, "scores that are all alike would prove nothing"


def test_key_major_turns_rows_of_bags_into_features_of_bags() -> None:
    bags: list[list[list[int]]] = [[[1], [], [2, 3]], [[], [], []], [[4, 4, 5], [6], []]]
    (slot,) = EagerForward(tiny_model()).capture(Bucket(4, 20))
    slot.arena.fill([(multi_hot(np.zeros((3, 3), np.float32), bags), 0, 3)])
    indices, offsets = key_major(slot.arena, 3)
    assert indices.tolist() == [1, 4, 4, 5, 6, 2, 3]
    assert offsets.tolist() == [0, 1, 1, 4, 4, 4, 5, 7, 7, 7]


def test_synthetic_one_hot_ids_stay_in_their_tables_and_reach_the_last_row() -> None:
    spec = MIXED.spec()
    request = one_hot_request(spec, 400, np.random.default_rng(0))
    assert request.ids is not None
    assert request.ids.min(axis=0).tolist() == [0] * 5
    assert request.ids.max(axis=0).tolist() == [rows - 1 for rows in MIXED.table_rows]
    assert ((request.dense >= 0) & (request.dense < 1)).all()


def test_synthetic_bags_stay_in_their_tables_and_hold_none_to_the_most() -> None:
    spec = MIXED.spec()
    rows = bags_of(multi_hot_request(spec, 400, 2, np.random.default_rng(0)))
    for feature, table in enumerate(spec.feature_tables):
        ids = {value for row in rows for value in row[feature]}
        assert (min(ids), max(ids)) == (0, table.rows - 1)
    assert {len(bag) for row in rows for bag in row} == {0, 1, 2}


def test_synthetic_requests_follow_their_seed() -> None:
    first, same, other = (one_hot_request(MIXED.spec(), 9, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.dense, same.dense)
    assert not np.array_equal(first.dense, other.dense)

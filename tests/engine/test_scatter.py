"""Each request gets its own scores, once, when its last row is in."""

import numpy as np
import pytest

from narsil_graph.engine.scatter import Scatter
from narsil_transport.admission import Admitted
from narsil_transport.batcher import Batch, Batcher, Mode, Piece
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel, LaunchCost
from tests.engine.tiny import one_hot


def admitted(rows: int, *, first: float) -> Admitted:
    """A request whose row r has the dense value ``first`` + r, which stands for its score."""
    dense = (np.arange(rows, dtype=np.float32) + np.float32(first))[:, None]
    request = one_hot(dense, np.zeros((rows, 1), np.int32))
    return Admitted(None, request, 0, None, rows, rows, 1, None, 0, False)


def batch_of(*pieces: tuple[Admitted, int, int]) -> Batch:
    rows = sum(end - begin for _, begin, end in pieces)
    return Batch(Bucket(8, 8), [Piece(a, begin, end, end - begin) for a, begin, end in pieces], rows, rows)


def launched(batch: Batch) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """What a launch of ``batch`` would score: the dense values, then padding."""
    real = [value for p in batch.pieces for value in p.admitted.request.dense[p.begin : p.end, 0].tolist()]
    return np.array(real + [-1.0] * (batch.bucket.rows - len(real)), np.float32)


def test_requests_of_one_batch_get_their_own_rows() -> None:
    one, two = admitted(3, first=10), admitted(1, first=20)
    batch = batch_of((one, 0, 3), (two, 0, 1))
    finished = Scatter().split(batch, launched(batch))
    assert [done.admitted for done in finished] == [one, two]
    assert [done.scores.tolist() for done in finished] == [[10, 11, 12], [20]]


def test_split_request_is_finished_by_its_last_piece_only() -> None:
    large, scatter = admitted(7, first=0), Scatter()
    for begin, end in ((0, 3), (3, 6)):
        batch = batch_of((large, begin, end))
        slot_scores = launched(batch)
        assert scatter.split(batch, slot_scores) == []
        slot_scores.fill(-9)
    last = batch_of((large, 6, 7))
    assert [done.scores.tolist() for done in scatter.split(last, launched(last))] == [[0, 1, 2, 3, 4, 5, 6]]


def test_whole_request_beside_the_end_of_a_split_one_is_finished_too() -> None:
    large, small, scatter = admitted(5, first=0), admitted(2, first=50), Scatter()
    first, last = batch_of((large, 0, 4)), batch_of((large, 4, 5), (small, 0, 2))
    assert scatter.split(first, launched(first)) == []
    finished = scatter.split(last, launched(last))
    assert [(done.admitted, done.scores.tolist()) for done in finished] == [
        (large, [0, 1, 2, 3, 4]),
        (small, [50, 51]),
    ]


def test_two_split_requests_are_not_mixed_up() -> None:
    one, two, scatter = admitted(4, first=0), admitted(4, first=100), Scatter()
    first, last = batch_of((one, 0, 2), (two, 2, 4)), batch_of((two, 0, 2), (one, 2, 4))
    assert scatter.split(first, launched(first)) == []
    finished = {done.admitted.request.dense[0, 0]: done.scores.tolist() for done in scatter.split(last, launched(last))}
    assert finished == {0: [0, 1, 2, 3], 100: [100, 101, 102, 103]}


def test_nothing_is_held_once_a_split_request_is_finished() -> None:
    large, scatter = admitted(4, first=0), Scatter()
    for _ in range(2):
        halves = [batch_of((large, 0, 2)), batch_of((large, 2, 4))]
        counts = [len(scatter.split(batch, launched(batch))) for batch in halves]
        assert counts == [0, 1]


@pytest.mark.parametrize("mode", list(Mode))
def test_all_that_a_batcher_cuts_is_joined_again(mode: Mode) -> None:
    requests = [admitted(rows, first=100 * number) for number, rows in enumerate([3, 20, 1, 9, 8, 40])]
    ladder = BucketLadder.from_rows((1, 4, 8), ids_per_row=1)
    cost = CostModel({bucket: LaunchCost(bucket.rows, bucket.rows) for bucket in ladder.buckets})
    batcher = Batcher(ladder=ladder, cost=cost, mode=mode, queue_rows_max=100)
    for request in requests:
        assert batcher.add(request) is None
    scatter = Scatter()
    finished = []
    while batch := batcher.take(0):
        finished += scatter.split(batch, launched(batch))
    assert {id(done.admitted) for done in finished} == {id(request) for request in requests}
    assert len(finished) == len(requests)
    for done in finished:
        assert np.array_equal(done.scores, done.admitted.request.dense[:, 0])

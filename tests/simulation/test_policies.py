"""The plain policy: what it waits for, and what it does not look at."""

import pytest

from narsil_graph.simulation.feeds import Arrival
from narsil_graph.simulation.policies import FixedTimeout
from narsil_graph.simulation.simulator import admitted_of
from narsil_transport.admission import Admitted
from narsil_transport.batcher import Batch
from narsil_transport.status import Refusal, Status
from tests.simulation.scenes import ladder_of

TIMEOUT_NS = 1000


def request(number: int, rows: int, *, at_ns: int = 0, ids: int | None = None, deadline_us: int = 0) -> Admitted:
    return admitted_of(Arrival(at_ns, rows, rows if ids is None else ids, deadline_us, False), number, at_ns)


def queued(*requests: Admitted, queue_rows_max: int = 100, rows_max: int | None = None) -> FixedTimeout:
    policy = FixedTimeout(
        ladder=ladder_of(1, 4, 8), timeout_ns=TIMEOUT_NS, queue_rows_max=queue_rows_max, rows_max=rows_max
    )
    for each in requests:
        assert policy.add(each) is None
    return policy


def pieces(batch: Batch | None) -> list[tuple[object, int, int]]:
    assert batch is not None
    return [(piece.admitted.route, piece.begin, piece.end) for piece in batch.pieces]


def test_batch_that_is_not_full_waits_for_the_timeout() -> None:
    policy = queued(request(0, 2, at_ns=10), request(1, 1, at_ns=50))
    assert policy.take(10 + TIMEOUT_NS - 1) is None
    assert policy.wake_ns(50) == 10 + TIMEOUT_NS
    assert pieces(policy.take(10 + TIMEOUT_NS)) == [(0, 0, 2), (1, 0, 1)]
    assert policy.wake_ns(50) is None and not policy.pending_requests


def test_full_batch_leaves_at_once() -> None:
    policy = queued(request(0, 5), request(1, 3))
    assert policy.wake_ns(7) == 7
    batch = policy.take(7)
    assert batch is not None and (batch.bucket.rows, batch.rows, batch.ids) == (8, 8, 8)


def test_request_that_does_not_fit_waits_for_the_next_batch() -> None:
    policy = queued(request(0, 5), request(1, 4))
    assert pieces(policy.take(0)) == [(0, 0, 5)]
    assert policy.take(0) is None
    assert pieces(policy.take(TIMEOUT_NS)) == [(1, 0, 4)]


def test_first_come_is_first_served_whatever_the_deadlines() -> None:
    policy = queued(request(0, 4, deadline_us=900), request(1, 4, deadline_us=1))
    assert policy.expired(10**9) == []
    assert policy.refuse_late(request(2, 4, deadline_us=1), now_ns=0, free_ns=[10**9]) is None
    assert pieces(policy.take(10**9)) == [(0, 0, 4), (1, 0, 4)]


def test_request_larger_than_a_batch_is_cut() -> None:
    policy = queued(request(0, 19), request(1, 2))
    assert [pieces(policy.take(0)), pieces(policy.take(0))] == [[(0, 0, 8)], [(0, 8, 16)]]
    assert policy.take(0) is None
    assert pieces(policy.take(TIMEOUT_NS)) == [(0, 16, 19), (1, 0, 2)]


def test_bucket_has_room_for_the_ids() -> None:
    policy = queued(request(0, 2, ids=7), request(1, 1, ids=2))
    batch = policy.take(0)
    assert pieces(batch) == [(0, 0, 2)]
    assert batch is not None and batch.bucket.rows == 8


def test_request_of_more_ids_than_a_bucket_is_cut_between_rows() -> None:
    policy = queued(request(0, 4, ids=14))
    assert pieces(policy.take(0)) == [(0, 0, 2)]
    assert pieces(policy.take(TIMEOUT_NS)) == [(0, 2, 4)]


def test_cap_makes_smaller_batches() -> None:
    policy = queued(request(0, 3), request(1, 3), rows_max=4)
    assert pieces(policy.take(0)) == [(0, 0, 3)]


@pytest.mark.parametrize(("rows", "status"), [(5, None), (6, Status.OVERLOADED)])
def test_full_queue_refuses(rows: int, status: Status | None) -> None:
    outcome = queued(request(0, 5), queue_rows_max=10).add(request(1, rows))
    assert outcome is None if status is None else isinstance(outcome, Refusal) and outcome.status is status

"""Our server as a subject, against a ROUTER that answers by a function."""

from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic

import numpy as np
import pytest

from narsil_graph.bench import narsil
from narsil_graph.bench.narsil import NarsilSubject, fetch_spec, narsil_subject
from narsil_graph.bench.subject import OK, TIMEOUT, Done, Rows
from narsil_graph.errors import UsageFailure
from narsil_transport.messages import InferRequest, Priority
from narsil_transport.wire import encode_scores
from tests.bench.spec_server import SPEC, SpecServer
from tests.client.fake_server import (
    TIMES,
    Answer,
    FakeServer,
    Replies,
    Reversed,
    grants_two,
    overloaded,
    scored,
    silent,
)

ROWS = Rows(np.array([[0.5, 1.5], [2.0, -1.0]], np.float32), np.array([[3, 1], [0, 5]], np.int32))


@contextmanager
def connected(answer: Answer, inflight_max: int = 64, timeout_s: float = 5.0) -> Generator[NarsilSubject]:
    with FakeServer(answer) as server:
        subject = narsil_subject([server.endpoint], inflight_max, timeout_s=timeout_s, deadline_us=70)
        try:
            yield subject
        finally:
            subject.close()


def sent(subject: NarsilSubject, number: int) -> None:
    """Submit, once the connection is up."""
    until = monotonic() + 5
    while not subject.submit(number, ROWS):
        assert monotonic() < until
        subject.poll(0.001)


def ended(subject: NarsilSubject, count: int) -> list[Done]:
    found: list[Done] = []
    until = monotonic() + 5
    while len(found) < count:
        assert monotonic() < until
        found += subject.poll(0.1)
    return found


def test_answer_has_scores_times_and_its_number() -> None:
    with connected(scored) as subject:
        sent(subject, 41)
        (done,) = ended(subject, 1)
    assert (done.number, done.status, done.times, done.variant) == (41, OK, TIMES, None)
    assert done.scores is not None and done.scores.tolist() == [2.0, 1.0]


def test_answers_in_any_order_find_their_numbers() -> None:
    with connected(Reversed(3)) as subject:
        for number in (7, 8, 9):
            sent(subject, number)
        assert [done.number for done in ended(subject, 3)] == [9, 8, 7]


def test_refusal_ends_by_its_name() -> None:
    with connected(overloaded) as subject:
        sent(subject, 0)
        (done,) = ended(subject, 1)
    assert (done.status, done.scores) == ("OVERLOADED", None)


def test_variant_that_the_server_tells_is_passed_on() -> None:
    def variant(request: InferRequest) -> Replies:
        scores = request.dense.sum(axis=1, dtype=np.float32)
        return [encode_scores(request.request_id, "v7", 8, request.rows, TIMES, None, scores, variant="B")]

    with connected(variant) as subject:
        sent(subject, 0)
        assert ended(subject, 1)[0].variant == "B"


def test_no_more_are_under_way_than_asked_for() -> None:
    with connected(silent, inflight_max=2) as subject:
        sent(subject, 0)
        sent(subject, 1)
        assert not subject.submit(2, ROWS)


def test_no_more_are_under_way_than_the_server_grants() -> None:
    with connected(grants_two) as subject:
        sent(subject, 0)
        ended(subject, 1)
        sent(subject, 1)
        sent(subject, 2)
        assert not subject.submit(3, ROWS)


def test_request_without_an_answer_times_out_and_is_cancelled() -> None:
    with FakeServer(silent) as server:
        subject = narsil_subject([server.endpoint], 1, timeout_s=0.02)
        sent(subject, 5)
        (done,) = ended(subject, 1)
        assert (done.number, done.status) == (5, TIMEOUT)
        # There is room again, and the server's word that it was cancelled is no answer to the next.
        sent(subject, 6)
        assert ended(subject, 1)[0].number == 6
        subject.close()
    assert server.cancelled[0] == server.seen[0].request_id


def test_requests_name_the_deadline() -> None:
    with FakeServer(scored) as server:
        subject = narsil_subject([server.endpoint], 1, deadline_us=70)
        sent(subject, 0)
        ended(subject, 1)
        subject.close()
    assert server.seen[0].deadline_us == 70


@pytest.mark.parametrize(("asked_us", "named_us"), [(None, 900), (70, 70)])
def test_recorded_budget_and_priority_are_named_unless_another_budget_is(asked_us: int | None, named_us: int) -> None:
    with FakeServer(scored) as server:
        subject = narsil_subject([server.endpoint], 1, deadline_us=asked_us)
        assert subject.submit(0, Rows(ROWS.dense, ROWS.ids, deadline_us=900, bulk=True))
        ended(subject, 1)
        subject.close()
    assert (server.seen[0].deadline_us, server.seen[0].priority) == (named_us, Priority.BULK)


def test_request_without_a_record_names_neither() -> None:
    with FakeServer(scored) as server:
        subject = narsil_subject([server.endpoint], 1)
        sent(subject, 0)
        ended(subject, 1)
        subject.close()
    assert (server.seen[0].deadline_us, server.seen[0].priority) == (None, Priority.INTERACTIVE)


def test_more_connections_than_can_be_waited_for_are_refused() -> None:
    with pytest.raises(UsageFailure, match="want at most 100 connections in all, got 101"):
        narsil_subject(["ipc:///tmp/narsil-nobody-is-here"] * 101, 1)


def test_servers_share_the_requests() -> None:
    with FakeServer(silent) as one, FakeServer(silent) as other:
        subject = narsil_subject([one.endpoint, other.endpoint], 4, timeout_s=0.3)
        for number in range(4):
            sent(subject, number)
        ended(subject, 4)
        subject.close()
    assert len(one.seen) + len(other.seen) == 4
    assert abs(len(one.seen) - len(other.seen)) <= 2


def test_server_that_is_not_there_is_told_by_its_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narsil, "CONNECT_S", 0.1)
    nobody = "ipc:///tmp/narsil-nobody-is-here"
    with FakeServer(scored) as server, pytest.raises(UsageFailure, match=f"{nobody}: no connection in 0.1 s"):
        narsil_subject([server.endpoint, nobody], 4)


def test_poll_with_no_time_does_not_wait() -> None:
    with connected(silent) as subject:
        sent(subject, 0)
        begin = monotonic()
        assert subject.poll(0.0) == []
        assert monotonic() - begin < 1


def test_malformed_endpoint_is_a_usage_failure() -> None:
    with pytest.raises(UsageFailure, match="cannot connect to 'nothing'"):
        narsil_subject(["nothing"], 1)


def test_spec_is_the_servers() -> None:
    with SpecServer(scored) as server:
        assert fetch_spec(server.endpoint) == SPEC


def test_server_that_tells_no_spec_is_a_usage_failure() -> None:
    with FakeServer(scored) as server, pytest.raises(UsageFailure, match="specification is malformed"):
        fetch_spec(server.endpoint)

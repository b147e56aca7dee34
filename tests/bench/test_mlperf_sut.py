"""What LoadGen counts on: every sample is completed, once, and no more are under way than may be."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from queue import Empty, SimpleQueue

import numpy as np
import pytest

from benchmarks.mlperf_sut import Sut
from narsil_client.dealer import connect
from narsil_graph.bench.requests import RequestPool
from narsil_graph.bench.subject import Floats
from narsil_graph.simulation.arrivals import mlperf
from narsil_transport.messages import InferRequest
from tests.bench.spec_server import SPEC
from tests.client.fake_server import Answer, FakeServer, Replies, Reversed, grants_two, overloaded, scored, silent

POOL = RequestPool(SPEC, mlperf(), 0, 8)
WAIT_S = 10.0
# Long beside what a busy machine takes to connect and to answer.
SILENCE_S = 0.3


class Rig:
    """A Sut, and what it completed, in order."""

    def __init__(self, server: FakeServer, *, in_flight_max: int, silence_s: float) -> None:
        self.ended: SimpleQueue[tuple[int, Floats | None]] = SimpleQueue()
        self.dealer = connect([server.endpoint], inflight_max=in_flight_max, context=None)
        self.sut = Sut(
            self.dealer,
            POOL,
            lambda sample_id, scores: self.ended.put((sample_id, scores)),
            in_flight_max=in_flight_max,
            silence_s=silence_s,
        )

    def answers(self, samples: Iterable[tuple[int, int]]) -> dict[int, Floats | None]:
        """By id, of all `samples`, issued at once."""
        wanted = list(samples)
        self.sut.issue(wanted)
        return dict(self.ended.get(timeout=WAIT_S) for _ in wanted)


@contextmanager
def rig(answer: Answer, *, in_flight_max: int = 64, silence_s: float = WAIT_S) -> Generator[tuple[Rig, FakeServer]]:
    with FakeServer(answer) as server:
        made = Rig(server, in_flight_max=in_flight_max, silence_s=silence_s)
        try:
            with made.sut:
                yield made, server
        finally:
            made.dealer.close()


def short_by_one(request: InferRequest) -> Replies:
    """A score for each row but the last."""
    request.dense = request.dense[1:]
    return scored(request)


def test_sample_gets_the_scores_of_its_own_rows() -> None:
    with rig(Reversed(3)) as (made, _):
        answers = made.answers([(71, 0), (72, 5), (73, 9)])
    for sample_id, number in ((71, 0), (72, 5), (73, 9)):
        np.testing.assert_array_equal(answers[sample_id], POOL[number].dense.sum(axis=1, dtype=np.float32))


def test_rows_and_answers_are_counted() -> None:
    with rig(scored) as (made, _):
        made.answers([(1, 0), (2, 1)])
    assert (made.sut.answered, made.sut.rows) == (2, len(POOL[0]) + len(POOL[1]))


def test_same_sample_id_may_come_again() -> None:
    with rig(scored) as (made, _):
        first, second = made.answers([(5, 1)]), made.answers([(5, 2)])
    assert [len(scores) for scores in (first[5], second[5]) if scores is not None] == [len(POOL[1]), len(POOL[2])]


def test_all_samples_of_an_offline_run_end_through_a_small_window() -> None:
    with rig(scored, in_flight_max=3) as (made, _):
        assert set(made.answers((number, number) for number in range(1, 101))) == set(range(1, 101))


def test_no_more_are_under_way_than_allowed() -> None:
    with rig(silent, in_flight_max=3, silence_s=SILENCE_S) as (made, server):
        made.answers((number, number) for number in range(1, 11))
    assert len(server.seen) == 3


def test_window_that_the_server_grants_is_kept() -> None:
    with rig(grants_two, silence_s=SILENCE_S) as (made, server):
        made.answers([(1, 1)])
        made.answers((number, number) for number in range(2, 11))
    assert len(server.seen) == 3


def test_refusal_fails_the_run_and_ends_every_sample() -> None:
    with rig(overloaded, in_flight_max=2) as (made, _):
        assert set(made.answers((number, number) for number in range(1, 11)).values()) == {None}
    assert made.sut.failure == "refused OVERLOADED: the queue is full"


def test_samples_issued_after_a_failure_end_too() -> None:
    with rig(overloaded) as (made, _):
        made.answers([(1, 1)])
        assert made.answers([(2, 2)]) == {2: None}


def test_reply_with_too_few_scores_fails_the_run() -> None:
    with rig(short_by_one) as (made, _):
        assert made.answers([(1, 0)]) == {1: None}
    assert made.sut.failure is not None and made.sut.failure.startswith(f"want {len(POOL[0])} scores for sample 1")


def test_silent_server_fails_the_run() -> None:
    with rig(silent, silence_s=SILENCE_S) as (made, _):
        assert made.answers([(1, 1)]) == {1: None}
    assert made.sut.failure == "no answer for 0.3 s with 1 requests sent"


def test_time_without_samples_is_not_silence() -> None:
    with rig(scored, silence_s=SILENCE_S) as (made, _):
        with pytest.raises(Empty):
            made.ended.get(timeout=1.5 * SILENCE_S)
        assert made.answers([(1, 1)])[1] is not None

"""When requests are sent and what counts as their latency, on virtual time."""

import gc

import numpy as np
import pytest

from narsil_graph.bench.driver import SLEEP_MARGIN_NS, closed_loop, open_loop
from narsil_graph.bench.subject import LOST, OK, Done, Rows
from narsil_graph.simulation.arrivals import Int64s
from tests.bench.virtual_server import LOOK_NS, MS, POOL, VirtualServer


def every(step_ns: int, count: int) -> Int64s:
    return np.arange(count, dtype=np.int64) * step_ns


def test_open_loop_sends_when_due_whether_or_not_others_are_answered() -> None:
    server = VirtualServer(service_ns=10 * MS)
    open_loop(server, POOL, every(MS, 20), clock=server.clock)
    late_ns = [sent_ns - place * MS for place, (_, sent_ns) in enumerate(server.asked)]
    assert len(late_ns) == 20
    assert min(late_ns) >= 0 and max(late_ns) <= 2 * LOOK_NS


def test_latency_counts_from_the_intended_time_where_there_is_no_room() -> None:
    server = VirtualServer(service_ns=10 * MS, room=1)
    log = open_loop(server, POOL, every(MS, 5), clock=server.clock)
    # One is served after the other: the fifth, wanted at 4 ms, ends after 50.
    assert log.latency_us == pytest.approx([10_000, 19_000, 28_000, 37_000, 46_000], abs=200)
    assert log.naive_us == pytest.approx([10_000] * 5, abs=200)


def test_numbers_follow_the_first_and_choose_the_rows() -> None:
    server = VirtualServer()
    log = open_loop(server, POOL, every(MS, 3), begin_number=6, keep_scores=True, clock=server.clock)
    assert log.number.tolist() == [6, 7, 8]
    assert log.scores is not None
    assert [scores.tolist() for scores in log.scores if scores is not None] == [[n] * 4 for n in (6, 7, 8)]


def test_seconds_of_an_open_loop_run_to_its_last_answer() -> None:
    server = VirtualServer(service_ns=30 * MS)
    assert open_loop(server, POOL, every(MS, 2), clock=server.clock).seconds == pytest.approx(0.060, abs=1e-4)


def test_request_without_an_end_is_lost_when_the_drain_is_over() -> None:
    server = VirtualServer(forgotten=frozenset({1}))
    log = open_loop(server, POOL, every(MS, 3), drain_s=0.5, clock=server.clock)
    assert log.statuses == [OK, OK, LOST]
    assert log.number.tolist() == [0, 2, 1]
    assert log.latency_us[-1] == pytest.approx(501_000, abs=200)


def test_request_that_never_had_room_is_lost_too() -> None:
    server = VirtualServer(room=1, forgotten=frozenset({0}))
    log = open_loop(server, POOL, every(MS, 3), drain_s=0.5, clock=server.clock)
    assert sorted(log.number.tolist()) == [0, 1, 2]
    assert log.statuses == [LOST] * 3
    assert log.rows.tolist() == [4, 4, 4]


def test_answer_to_a_request_of_another_load_is_ignored() -> None:
    server = VirtualServer()
    server.due.append(Done(99, 0, OK))
    assert open_loop(server, POOL, every(MS, 2), clock=server.clock).number.tolist() == [0, 1]


def test_open_loop_without_arrivals_is_over_at_once() -> None:
    server = VirtualServer()
    log = open_loop(server, POOL, every(MS, 0), clock=server.clock)
    assert (len(log), log.seconds, server.asked) == (0, 0.0, [])


def test_driver_does_not_sleep_through_the_last_moment_before_a_request() -> None:
    waits_s: list[float] = []

    class Noting(VirtualServer):
        def poll(self, timeout_s: float) -> list[Done]:
            waits_s.append(timeout_s)
            return VirtualServer.poll(self, timeout_s)

    server = Noting(service_ns=LOOK_NS)
    open_loop(server, POOL, every(5 * MS, 3), clock=server.clock)
    slept = [wait_s for wait_s in waits_s if wait_s > 0]
    assert slept and max(slept) <= (5 * MS - SLEEP_MARGIN_NS) / 1e9
    assert waits_s.count(0.0) > len(slept)


@pytest.mark.parametrize("in_flight", [1, 4])
def test_closed_loop_keeps_so_many_under_way(in_flight: int) -> None:
    most = 0

    class Noting(VirtualServer):
        def submit(self, number: int, rows: Rows) -> bool:
            nonlocal most
            taken = VirtualServer.submit(self, number, rows)
            most = max(most, len(self.due))
            return taken

    server = Noting()
    log = closed_loop(server, POOL, in_flight, 0.1, clock=server.clock)
    assert most == in_flight
    assert len(log) == pytest.approx(100, abs=in_flight)
    assert np.median(log.latency_us) == pytest.approx(1000 * in_flight, rel=0.05)


def test_closed_loop_logs_what_ends_after_its_time() -> None:
    server = VirtualServer(service_ns=30 * MS)
    log = closed_loop(server, POOL, 2, 0.1, clock=server.clock)
    assert len(log) == len(server.asked)
    assert log.seconds == pytest.approx(len(log) * 0.030, abs=1e-3)


def test_closed_loop_waits_for_room_and_counts_the_waiting() -> None:
    server = VirtualServer(room=1)
    log = closed_loop(server, POOL, 2, 0.02, clock=server.clock)
    assert np.median(log.latency_us) > 1.8 * np.median(log.naive_us)


def test_rate_of_a_closed_loop_is_that_of_what_was_scored() -> None:
    server = VirtualServer(refused=frozenset(range(0, 10_000, 2)))
    assert closed_loop(server, POOL, 8, 0.2, clock=server.clock).requests_per_s == pytest.approx(500, rel=0.05)


def test_request_that_waited_for_room_has_as_long_as_any_to_end() -> None:
    # Each takes 0.4 s, and only one is under way: the second is sent when the time to send is nearly over.
    server = VirtualServer(service_ns=400 * MS, room=1)
    log = open_loop(server, POOL, every(MS, 2), drain_s=0.5, clock=server.clock)
    assert log.statuses == [OK, OK]


def test_garbage_collection_is_as_before_after_a_load_that_fails() -> None:
    class Broken(VirtualServer):
        def poll(self, timeout_s: float) -> list[Done]:
            assert not gc.isenabled()
            raise ValueError("broken")

    server = Broken()
    with pytest.raises(ValueError, match="broken"):
        closed_loop(server, POOL, 1, 0.1, clock=server.clock)
    assert gc.isenabled()

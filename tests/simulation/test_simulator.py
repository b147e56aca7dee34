"""The simulated loop: virtual time passes as the server's would, and every request has one answer."""

from collections.abc import Callable

import numpy as np
import pytest

from narsil_graph.simulation.arrivals import Arrivals, ClosedLoop, bursty_ns, constant, lognormal, poisson_ns
from narsil_graph.simulation.outcome import Outcome
from narsil_graph.simulation.report import summarise
from narsil_graph.simulation.simulator import Place, Scheduler, simulate
from narsil_transport.status import Status
from tests.simulation.scenes import arrivals_at, by_cost, by_timeout, latencies_us, launch_ns, statuses

CPU = Place(shared_loop=True, jitter=False)
CUDA = Place(shared_loop=False, jitter=False)


def traffic(rate: float, seconds: float, *, deadline_us: int = 0) -> Arrivals:
    rng = np.random.default_rng(3)
    arrival_ns = bursty_ns(rng, rate, seconds)
    rows = lognormal(10.0, 1.0, 60)(rng, len(arrival_ns))
    return Arrivals.drawn(arrival_ns, rows, ids_per_row=1, deadline_us=deadline_us)


def test_lone_request_takes_the_loop_and_the_launch() -> None:
    made = by_cost(1, 8, request_ns=3_000, reply_ns=2_000)
    assert latencies_us(simulate(arrivals_at([100], rows=8), made, CPU)) == [3 + 58 + 2]


def test_request_that_comes_during_a_launch_waits_in_the_socket_on_a_cpu() -> None:
    outcome = simulate(arrivals_at([0, 10]), by_cost(1, 8), CPU)
    assert outcome.requests["received_ns"].tolist() == [0, 51_000]
    assert latencies_us(outcome) == [51, 41 + 51]


def test_request_that_comes_during_a_launch_is_received_on_cuda() -> None:
    outcome = simulate(arrivals_at([0, 10]), by_cost(1, 8), CUDA)
    assert outcome.requests["received_ns"].tolist() == [0, 10_000]
    # A lane's launches run one after the other.
    assert latencies_us(outcome) == [51, 41 + 51]


def test_lanes_run_beside_each_other() -> None:
    place = Place(shared_loop=False, lanes=2, jitter=False)
    outcome = simulate(arrivals_at([0, 10]), by_cost(1, 8), place)
    assert latencies_us(outcome) == [51, 51]
    assert outcome.launches["lane"].tolist() == [0, 1]


def test_lanes_of_a_cpu_are_servers_that_are_asked_in_turn() -> None:
    place = Place(shared_loop=True, lanes=2, jitter=False)
    outcome = simulate(arrivals_at([0, 10, 20]), by_cost(1, 8), place)
    assert outcome.launches["lane"].tolist() == [0, 1, 0]
    assert latencies_us(outcome) == [51, 51, 31 + 51]


def test_what_gathers_during_a_launch_shares_the_next() -> None:
    outcome = simulate(arrivals_at([0, 10, 20, 30]), by_cost(1, 8), CPU)
    assert outcome.launches["rows"].tolist() == [1, 3]


def test_split_request_is_answered_with_its_last_piece() -> None:
    outcome = simulate(arrivals_at([0], rows=20), by_cost(1, 4, 8), CPU)
    assert outcome.launches["rows"].sum() == 20 and len(outcome.launches) == 3
    assert outcome.requests["answered_ns"].tolist() == [outcome.launches["end_ns"].max()]


def test_request_that_would_miss_is_refused_at_once() -> None:
    outcome = simulate(arrivals_at([0, 10], rows=8, deadline_us=80), by_cost(1, 8), CUDA)
    assert statuses(outcome) == [Status.OK, Status.WOULD_MISS]
    assert latencies_us(outcome) == [58, 0]


def test_without_admission_control_it_expires_instead() -> None:
    def unadmitting() -> Scheduler:
        scheduler = by_cost(1, 8)()
        scheduler.admission = False
        return scheduler

    place = Place(shared_loop=False, slots=1, jitter=False)
    outcome = simulate(arrivals_at([0, 10], rows=8, deadline_us=80), unadmitting, place)
    assert statuses(outcome) == [Status.OK, Status.DEADLINE_EXCEEDED]


def test_full_queue_refuses() -> None:
    made = by_cost(1, 8, queue_rows_max=8)
    outcome = simulate(arrivals_at([0, 0, 0], rows=8), made, CPU)
    assert sorted(statuses(outcome)) == [Status.OK, Status.OVERLOADED, Status.OVERLOADED]


def test_long_launch_is_noticed_by_the_servers_millisecond_poll() -> None:
    # Longer than the server's two milliseconds of spinning: the loop looks again after three.
    outcome = simulate(arrivals_at([0], rows=2_500), by_timeout(2_500), CUDA)
    assert latencies_us(outcome) == [3_000]


def everything_is_answered_once(outcome: Outcome, arrivals: Arrivals) -> None:
    requests, launches = outcome.requests, outcome.launches
    assert requests["arrival_ns"].tolist() == arrivals.arrival_ns.tolist()
    assert np.all(requests["answered_ns"] >= requests["received_ns"])
    answered = requests["status"] == Status.OK
    assert launches["rows"].sum() == arrivals.rows[answered].sum()
    assert np.all(launches["rows"] <= launches["bucket_rows"])
    for lane in range(outcome.lanes):
        own = launches[launches["lane"] == lane]
        assert np.all(own["begin_ns"][1:] >= own["end_ns"][:-1])


@pytest.mark.parametrize("shared_loop", [True, False])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("made", [by_cost(1, 4, 16, 32), by_timeout(8, 32, timeout_us=200)])
def test_everything_is_answered_once(shared_loop: bool, lanes: int, made: Callable[[], Scheduler]) -> None:
    arrivals = traffic(20_000.0, 0.2, deadline_us=2_000)
    outcome = simulate(arrivals, made, Place(shared_loop=shared_loop, lanes=lanes))
    everything_is_answered_once(outcome, arrivals)


def test_same_seed_gives_the_same_outcome() -> None:
    arrivals = traffic(5_000.0, 0.2)

    def outcome(seed: int) -> Outcome:
        return simulate(arrivals, by_cost(1, 4, 16, 32), Place(shared_loop=True), seed=seed)

    first, again, other = outcome(1), outcome(1), outcome(2)
    assert np.array_equal(first.requests, again.requests) and np.array_equal(first.launches, again.launches)
    assert not np.array_equal(first.requests, other.requests)


def test_jittered_launches_have_the_measured_median_and_p99() -> None:
    outcome = simulate(arrivals_at(range(0, 2_000_000, 200)), by_timeout(1), Place(shared_loop=True))
    taken_ns = outcome.launches["end_ns"] - outcome.launches["begin_ns"]
    assert np.median(taken_ns) == pytest.approx(launch_ns(1), rel=0.01)
    assert np.quantile(taken_ns, 0.99) == pytest.approx(launch_ns(1) * 1.2, rel=0.02)


def test_queue_of_single_launches_waits_as_theory_has_it() -> None:
    # One server, Poisson arrivals, constant service: the mean wait of M/D/1 is load * service / (2 * (1 - load)).
    load, service_us = 0.7, launch_ns(1) / 1e3
    arrival_ns = poisson_ns(np.random.default_rng(5), [(load * 1e6 / service_us, 6.0)])
    arrivals = Arrivals.drawn(arrival_ns, np.ones(len(arrival_ns), np.int64), ids_per_row=1)
    outcome = simulate(arrivals, by_timeout(1), CPU)
    wait_us = outcome.latency_ns.mean() / 1e3 - service_us
    assert wait_us == pytest.approx(load * service_us / (2 * (1 - load)), rel=0.05)


@pytest.mark.parametrize("clients", [1, 5])
def test_closed_loop_throughput_is_clients_over_their_round(clients: int) -> None:
    # A launch that holds every client's request ends before any of them has thought: rounds are think and launch.
    loop = ClosedLoop(clients, 1_000.0, 2.0, constant(1), ids_per_row=1)
    place = Place(shared_loop=False, lanes=clients, slots=1, jitter=False)
    summary = summarise(simulate(loop, by_cost(1), place))
    assert summary.requests_per_s == pytest.approx(clients * 1e6 / (1_000 + 51), rel=0.05)


def test_closed_loop_never_has_more_under_way_than_clients() -> None:
    loop = ClosedLoop(4, 20.0, 0.1, constant(3), ids_per_row=1)
    requests = simulate(loop, by_cost(1, 4, 16), CPU).requests
    begun = np.searchsorted(requests["arrival_ns"], requests["arrival_ns"], side="right")
    ended = np.searchsorted(np.sort(requests["answered_ns"]), requests["arrival_ns"], side="right")
    assert (begun - ended).max() == 4

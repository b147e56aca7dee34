import subprocess
import sys
from pathlib import Path
from time import monotonic, monotonic_ns

import pytest
import zmq

from narsil_client import (
    Client,
    ClientClosed,
    HealthState,
    Overloaded,
    RequestTimeout,
    ServerUnreachable,
)
from narsil_client.dealer import Dealer
from narsil_transport.messages import InferRequest, Priority
from tests.client.fake_server import (
    DENSE,
    IDS,
    TIMES,
    FakeServer,
    Replies,
    Reversed,
    overloaded,
    scored,
    silent,
)

SUMS = [2.0, 1.0]


def test_predict_returns_the_scores_and_where_the_time_went() -> None:
    with FakeServer(scored) as server, Client(server.endpoint) as client:
        scores = client.predict(dense=DENSE, ids=IDS)
    assert scores.scores.tolist() == SUMS
    assert (scores.version, scores.bucket_rows, scores.rows_filled) == ("v7", 8, 2)
    assert scores.times == TIMES
    assert scores.round_trip_us > 0


def test_every_argument_travels() -> None:
    with FakeServer(scored) as server, Client(server.endpoint) as client:
        lengths = [[1, 0], [2, 1]]
        client.predict(
            dense=DENSE,
            lengths=lengths,
            values=[9, 8, 7, 6],
            model="m",
            deadline_us=1000,
            priority="bulk",
            traceparent="00-ab",
        )
    (request,) = server.seen
    assert isinstance(request, InferRequest)
    assert (request.model, request.deadline_us, request.traceparent) == ("m", 1000, "00-ab")
    assert request.priority is Priority.BULK
    assert request.lengths is not None and request.lengths.tolist() == lengths
    assert request.values is not None and request.values.tolist() == [9, 8, 7, 6]


def test_a_refusal_is_raised() -> None:
    with FakeServer(overloaded) as server, Client(server.endpoint) as client:
        with pytest.raises(Overloaded, match="the queue is full") as caught:
            client.predict(dense=DENSE, ids=IDS)
        assert caught.value.retry_after_us == 1500


def test_health_and_metadata() -> None:
    with FakeServer(silent) as server, Client(server.endpoint) as client:
        health = client.health()
        assert (health.state, health.inflight, health.uptime_s) == (HealthState.READY, 3, 1.5)
        assert client.metadata().meta == {"dense_width": 2}


def test_replies_out_of_order_find_their_requests() -> None:
    with FakeServer(Reversed(3)) as server, Client(server.endpoint) as client:
        pending = [client.submit(dense=[[float(i)]], ids=[[0]]) for i in range(3)]
        assert [each.result().scores.tolist() for each in pending] == [[0.0], [1.0], [2.0]]


def test_submit_beyond_the_window_reads_replies() -> None:
    with FakeServer(scored) as server, Client(server.endpoint, inflight_max=4) as client:
        pending = [client.submit(dense=[[float(i)]], ids=[[0]]) for i in range(40)]
        assert [each.result().scores.item() for each in pending] == list(range(40))


def test_submit_into_a_window_that_stays_full_times_out() -> None:
    with FakeServer(silent) as server, Client(server.endpoint, inflight_max=2) as client:
        pending = [client.submit(dense=DENSE, ids=IDS) for _ in range(2)]
        with pytest.raises(RequestTimeout, match="2 requests stayed in flight"):
            client.submit(dense=DENSE, ids=IDS, timeout_s=0.01)
        assert not any(each.done() for each in pending)


def test_a_full_window_moves_on_when_its_requests_expire() -> None:
    with FakeServer(silent) as server, Client(server.endpoint, inflight_max=1) as client:
        client.health()
        first = client.submit(dense=DENSE, ids=IDS, timeout_s=0.01)
        client.submit(dense=DENSE, ids=IDS)
        assert first.done()


def test_done_becomes_true_without_waiting_for_the_result() -> None:
    with FakeServer(scored) as server, Client(server.endpoint) as client:
        pending = client.submit(dense=DENSE, ids=IDS)
        give_up = monotonic() + 5
        while not pending.done() and monotonic() < give_up:
            pass
        assert pending.done()
        assert pending.result().scores.tolist() == SUMS
        assert pending.result().scores.tolist() == SUMS


def test_an_impatient_result_leaves_the_request_in_flight() -> None:
    with FakeServer(Reversed(2)) as server, Client(server.endpoint) as client:
        first = client.submit(dense=DENSE, ids=IDS)
        with pytest.raises(RequestTimeout, match="still in flight"):
            first.result(timeout_s=0.01)
        client.predict(dense=DENSE, ids=IDS)
        assert first.result().scores.tolist() == SUMS


def test_no_answer_is_a_timeout() -> None:
    with FakeServer(silent) as server, Client(server.endpoint) as client:
        client.health()
        with pytest.raises(RequestTimeout, match=r"no answer in 0\.02 s"):
            client.predict(dense=DENSE, ids=IDS, timeout_s=0.02)


def test_an_answer_that_waited_in_the_socket_counts_however_late_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer(scored) as server, Client(server.endpoint) as client:
        pending = client.submit(dense=DENSE, ids=IDS)
        take = Dealer.take

        def take_when_there(dealer: Dealer) -> list[bytes] | None:
            while (frames := take(dealer)) is None:
                pass
            return frames

        monkeypatch.setattr(Dealer, "take", take_when_there)
        monkeypatch.setattr("narsil_client.client.monotonic_ns", lambda: monotonic_ns() + 10**12)
        assert pending.result().scores.tolist() == SUMS


def test_a_late_reply_is_dropped() -> None:
    with FakeServer(Reversed(2)) as server, Client(server.endpoint) as client:
        client.health()
        with pytest.raises(RequestTimeout):
            client.predict(dense=[[1.0]], ids=[[0]], timeout_s=0.01)
        assert client.predict(dense=[[2.0]], ids=[[0]]).scores.tolist() == [2.0]


def test_garbage_is_skipped() -> None:
    def garbage_first(request: InferRequest) -> Replies:
        return [[b"garbage"], [b""], [b"a", b"b", b"c", b"d", b"e"], *scored(request)]

    with FakeServer(garbage_first) as server, Client(server.endpoint) as client:
        assert client.predict(dense=DENSE, ids=IDS).scores.tolist() == SUMS


def test_garbage_alone_is_a_timeout_that_says_so() -> None:
    def garbage(request: InferRequest) -> Replies:
        return [[b"HTTP/1.1 400"]]

    with FakeServer(garbage) as server, Client(server.endpoint) as client:
        client.health()
        with pytest.raises(RequestTimeout, match="unusable message came: want the header"):
            client.predict(dense=DENSE, ids=IDS, timeout_s=0.1)


def test_two_endpoints_are_both_used() -> None:
    with FakeServer(scored) as one, FakeServer(scored) as two, Client(one.endpoint, two.endpoint) as client:
        give_up = monotonic() + 5
        while not (one.seen and two.seen) and monotonic() < give_up:
            client.predict(dense=DENSE, ids=IDS)
        assert one.seen and two.seen


def test_a_dead_endpoint_takes_no_requests() -> None:
    with FakeServer(scored) as server, Client("tcp://127.0.0.1:1", server.endpoint) as client:
        for _ in range(10):
            client.predict(dense=DENSE, ids=IDS)
    assert len(server.seen) == 10


def test_the_client_may_come_before_the_server(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/server"
    with Client(endpoint) as client, FakeServer(scored, endpoint):
        assert client.predict(dense=DENSE, ids=IDS).scores.tolist() == SUMS


def test_no_server_is_unreachable_and_takes_no_place() -> None:
    with Client("tcp://127.0.0.1:1", timeout_s=0.01, inflight_max=1) as client:
        for _ in range(2):
            with pytest.raises(ServerUnreachable, match=r"in time: tcp://127\.0\.0\.1:1"):
                client.predict(dense=DENSE, ids=IDS)


@pytest.mark.parametrize("endpoint", ["", "nonsense", "http://127.0.0.1:80", "tcp://127.0.0.1"])
def test_a_malformed_endpoint_is_unreachable_at_once(endpoint: str) -> None:
    with pytest.raises(ServerUnreachable, match="cannot connect to"):
        Client(endpoint).open()


def test_a_client_wants_an_endpoint() -> None:
    with pytest.raises(ValueError, match="at least one endpoint"):
        Client().open()


def test_a_client_that_is_not_open_says_so() -> None:
    client = Client("tcp://127.0.0.1:1")
    with pytest.raises(ClientClosed, match="not open"):
        client.predict(dense=DENSE, ids=IDS)


def test_closing_fails_what_is_in_flight_and_keeps_what_was_answered() -> None:
    with FakeServer(Reversed(2)) as server, Client(server.endpoint) as client:
        answered = client.submit(dense=DENSE, ids=IDS)
        client.predict(dense=DENSE, ids=IDS)
        answered.result()
        open_still = client.submit(dense=DENSE, ids=IDS)
        client.close()
        client.close()
        assert answered.result().scores.tolist() == SUMS
        with pytest.raises(ClientClosed):
            open_still.result()


def test_a_given_context_is_not_terminated() -> None:
    context = zmq.Context()
    with FakeServer(scored) as server, Client(server.endpoint, context=context) as client:
        client.predict(dense=DENSE, ids=IDS)
    assert not context.closed
    context.term()


def test_importing_the_client_imports_no_torch() -> None:
    code = "import sys, narsil_client; sys.exit(any(m.split('.')[0] in ('torch', 'narsil_graph') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

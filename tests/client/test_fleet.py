"""Which server gets a call, and what becomes of it when that server goes: no socket, no clock."""

from typing import Any

import pytest

from narsil_client import Draining, RequestTimeout, ServerLost, Status, Unavailable, errors
from narsil_client.arguments import infer_request
from narsil_client.call import Call
from narsil_client.fleet import ABANDONED_NS, SHUN_NS
from narsil_client.session import Session
from narsil_transport.messages import WINDOW_START, ControlRequest, HealthReply, Operation, ScoresReply
from narsil_transport.status import Refusal
from narsil_transport.wire import encode_refusal
from tests.client.fake_server import DENSE, IDS
from tests.client.test_session import refusal_of, reply_to

FAR = 10**12


def session_of(servers: int, *, up: int, inflight_max: int = 500, keyed: bool = True) -> Session:
    """A session with so many servers, the first `up` of them connected."""
    session = Session([f"tcp://{number}" for number in range(servers)], inflight_max, keyed=keyed)
    for index in range(up):
        session.fleet.up(index)
    return session


def waiting(session: Session, *, expires_ns: int = FAR, deadline_us: int | None = None) -> Call[ScoresReply]:
    """A call that is not sent yet."""
    request = infer_request(dense=DENSE, ids=IDS, deadline_us=deadline_us)
    return session.begin(request, ScoresReply, now_ns=0, expires_ns=expires_ns)


def sent(session: Session, **options: Any) -> Call[ScoresReply]:
    """A call that a server has."""
    call = waiting(session, **options)
    assert session.outgoing(0) is call
    return call


def test_the_server_with_the_least_unanswered_is_next() -> None:
    session = session_of(3, up=3)
    assert [sent(session).server for _ in range(4)] == [0, 1, 2, 0]
    session.receive(1, reply_to(2), 1)
    assert [sent(session).server for _ in range(3)] == [1, 2, 1]


def test_only_connected_servers_are_asked() -> None:
    session = session_of(3, up=1)
    assert [sent(session).server for _ in range(3)] == [0, 0, 0]


def test_a_window_that_a_server_grants_is_kept() -> None:
    session = session_of(1, up=1)
    first = sent(session)
    session.receive(0, [encode_refusal(first.request_id, "v", Refusal(Status.OVERLOADED, "no"), 2)], 1)
    for _ in range(2):
        sent(session)
    third = waiting(session)
    assert session.outgoing(1) is None
    session.receive(0, reply_to(2), 1)
    assert session.outgoing(1) is third


def test_a_window_begins_at_its_start_with_every_connection() -> None:
    session = session_of(1, up=1)
    first = sent(session)
    session.receive(0, [encode_refusal(first.request_id, "v", Refusal(Status.OVERLOADED, "no"), 2)], 1)
    session.forget(sent(session), 1)
    session.down(0, 1)
    session.fleet.up(0)
    for _ in range(WINDOW_START):
        sent(session)
    waiting(session)
    assert session.outgoing(1) is None


def test_a_control_request_goes_to_each_server_in_turn_and_past_full_windows() -> None:
    session = session_of(2, up=2)
    for server in session.fleet.servers:
        server.window = 1
    for _ in range(2):
        sent(session)
    asked: list[int] = []
    for _ in range(4):
        session.begin(ControlRequest(0, Operation.HEALTH), HealthReply, now_ns=0, expires_ns=FAR)
        call = session.outgoing(0)
        assert call is not None
        asked.append(call.server)
    assert asked == [0, 1, 0, 1]


def test_an_abandoned_request_fills_its_place_until_it_is_answered() -> None:
    session = session_of(1, up=1)
    session.fleet.servers[0].window = 1
    abandoned = sent(session, expires_ns=5)
    assert session.expire(5) == [abandoned]
    later = waiting(session)
    assert session.outgoing(6) is None
    session.receive(0, reply_to(abandoned.request_id), 7)
    assert session.outgoing(7) is later


def test_an_abandoned_request_whose_answer_never_comes_fills_no_place_for_ever() -> None:
    session = session_of(1, up=1)
    session.fleet.servers[0].window = 1
    session.forget(sent(session), 5)
    later = waiting(session)
    assert session.outgoing(6) is None
    assert session.fleet.wake_ns == 5 + ABANDONED_NS
    assert session.outgoing(5 + ABANDONED_NS) is later


def test_a_full_socket_is_passed_over_until_it_has_room() -> None:
    session = session_of(2, up=2)
    call = sent(session)
    session.unsent(call)
    assert session.outgoing(0) is call
    assert call.server == 1
    assert [sent(session).server for _ in range(2)] == [1, 1]
    session.writable(0)
    assert sent(session).server == 0


def test_a_lost_call_is_sent_to_another_server_under_its_id() -> None:
    session = session_of(2, up=2)
    call = sent(session)
    assert session.down(0, 1) == []
    assert session.outgoing(1) is call
    assert (call.server, call.request_id) == (1, 1)
    assert session.receive(1, reply_to(1), 2) is call


def test_a_lost_call_waits_for_the_only_server_to_be_back() -> None:
    session = session_of(1, up=1)
    call = sent(session)
    session.down(0, 1)
    assert session.outgoing(1) is None
    session.fleet.up(0)
    assert session.outgoing(2) is call


def test_a_call_that_is_lost_twice_fails() -> None:
    session = session_of(3, up=3)
    call = sent(session)
    session.down(0, 1)
    session.outgoing(1)
    assert session.down(call.server, 2) == [call]
    with pytest.raises(ServerLost, match="the connection to tcp://1 ended"):
        call.answer()


def test_a_lost_call_that_finds_no_other_server_in_time_fails_as_lost() -> None:
    session = session_of(2, up=1)
    call = sent(session, expires_ns=9)
    session.down(0, 1)
    assert session.expire(9) == [call]
    with pytest.raises(ServerLost):
        call.answer()


def test_a_lost_call_whose_deadline_has_passed_is_not_sent_again() -> None:
    session = session_of(2, up=2)
    late, early = sent(session, deadline_us=1), sent(session, deadline_us=3)
    assert session.down(0, 2_000) == [late]
    assert session.down(1, 2_000) == []
    session.fleet.up(0)
    assert session.outgoing(3_000) is None
    assert session.hopeless(3_000) == [early]
    with pytest.raises(ServerLost):
        early.answer()


def test_a_cancelled_call_is_not_sent_again() -> None:
    session = session_of(2, up=2)
    call = sent(session)
    assert session.cancel(call, 1) is None
    assert session.down(0, 2) == [call]
    with pytest.raises(errors.Cancelled):
        call.answer()


def test_the_first_reply_wins_and_only_the_server_that_was_asked_is_believed() -> None:
    session = session_of(2, up=2)
    call = sent(session)
    assert session.receive(1, reply_to(1, (0.0, 0.0)), 1) is None
    assert session.receive(0, reply_to(1), 2) is call
    assert session.receive(0, reply_to(1, (1.0, 1.0)), 3) is None
    assert call.answer().scores.tolist() == [0.25, 0.75]


@pytest.mark.parametrize(("status", "kind"), [(Status.DRAINING, Draining), (Status.UNAVAILABLE, Unavailable)])
def test_a_server_that_takes_no_work_has_its_request_sent_elsewhere_once(status: Status, kind: type[Exception]) -> None:
    session = session_of(3, up=3)
    call = sent(session)
    assert session.receive(0, refusal_of(1, status), 1) is None
    assert session.outgoing(1) is call
    assert call.server == 1
    assert session.receive(1, refusal_of(1, status), 2) is call
    with pytest.raises(kind):
        call.answer()


def test_a_server_that_takes_no_work_is_believed_where_there_is_no_other() -> None:
    session = session_of(2, up=1)
    call = sent(session)
    assert session.receive(0, refusal_of(1, Status.DRAINING), 1) is call


def test_a_refused_call_whose_other_server_goes_too_ends_with_the_refusal() -> None:
    session = session_of(2, up=2)
    call = sent(session)
    session.receive(0, refusal_of(1, Status.DRAINING), 1)
    session.down(1, 2)
    assert session.outgoing(2) is None
    assert session.hopeless(2) == [call]
    with pytest.raises(Draining):
        call.answer()


def test_a_server_that_takes_no_work_is_passed_over_for_a_while() -> None:
    session = session_of(2, up=2)
    sent(session)
    session.receive(0, refusal_of(1, Status.DRAINING), 1)
    session.outgoing(1)
    assert [sent(session).server for _ in range(3)] == [1, 1, 1]
    call = waiting(session)
    session.outgoing(1 + SHUN_NS)
    assert call.server == 0


def test_any_other_refusal_is_the_answer() -> None:
    session = session_of(2, up=2)
    call = sent(session)
    assert session.receive(0, refusal_of(1, Status.OVERLOADED), 1) is call


def test_a_window_that_stays_full_is_a_timeout_that_says_so() -> None:
    session = session_of(1, up=1)
    session.fleet.servers[0].window = 1
    sent(session)
    call = waiting(session, expires_ns=5)
    session.expire(5)
    with pytest.raises(RequestTimeout, match="2 requests stayed in flight"):
        call.answer()


def test_nothing_is_known_of_connections_after_close() -> None:
    session = session_of(1, up=1)
    session.close(1)
    waiting(session)
    assert session.outgoing(2) is None

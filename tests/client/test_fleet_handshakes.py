"""Servers that refuse a client, and when they are asked again: no socket, no clock."""

import pytest

from narsil_client import HandshakeRefused
from narsil_client.fleet import FAILURES_MAX, RETRY_MAX_NS, RETRY_NS
from tests.client.test_fleet import session_of, waiting


def test_a_call_fails_at_once_where_every_server_has_refused_this_client() -> None:
    session = session_of(2, up=0)
    call = waiting(session)
    session.fleet.refused(0, "no key", 1, final=True)
    assert session.hopeless(1) == []
    session.fleet.refused(1, "no key", 1, final=True)
    assert session.hopeless(1) == [call]
    with pytest.raises(HandshakeRefused, match="tcp://0: no key, tcp://1: no key"):
        call.answer()


def test_a_server_that_is_asked_again_is_waited_for() -> None:
    session = session_of(1, up=0)
    session.fleet.refused(0, "no key", 0, final=True)
    assert session.fleet.due(RETRY_NS - 1) == []
    assert session.fleet.due(RETRY_NS) == [0]
    call = waiting(session)
    assert session.hopeless(RETRY_NS) == []
    session.fleet.up(0)
    assert session.outgoing(RETRY_NS) is call


def test_a_handshake_that_just_ends_is_a_refusal_only_when_it_happens_again_and_again() -> None:
    session = session_of(1, up=0)
    call = waiting(session, expires_ns=5)
    for _ in range(FAILURES_MAX - 1):
        session.fleet.refused(0, "hung up", 1, final=False)
        assert session.hopeless(1) == []
    session.fleet.refused(0, "hung up", 1, final=False)
    assert session.hopeless(1) == [call]


def test_a_server_that_hangs_up_on_a_client_without_keys_is_waited_for() -> None:
    session = session_of(1, up=0, keyed=False)
    call = waiting(session)
    for _ in range(2 * FAILURES_MAX):
        session.fleet.refused(0, "hung up", 1, final=False)
    assert session.hopeless(1) == []
    assert session.fleet.hitches == "tcp://0 (hung up)"
    session.fleet.up(0)
    assert session.fleet.hitches == "tcp://0"
    assert session.outgoing(1) is call


def test_a_refusal_is_named_when_time_runs_out() -> None:
    session = session_of(2, up=0)
    call = waiting(session, expires_ns=5)
    session.fleet.refused(0, "no key", 1, final=True)
    session.expire(5)
    with pytest.raises(HandshakeRefused, match="tcp://0: no key"):
        call.answer()


def test_a_server_that_refuses_is_asked_less_and_less_often() -> None:
    fleet = session_of(1, up=0).fleet
    now_ns, waits_ns = 0, []
    for _ in range(9):
        fleet.refused(0, "no key", now_ns, final=True)
        waits_ns.append(fleet.retry_ns - now_ns)
        now_ns = fleet.retry_ns
        assert fleet.due(now_ns) == [0]
    assert waits_ns == [min(RETRY_NS * 2**step, RETRY_MAX_NS) for step in range(9)]
    fleet.up(0)
    fleet.refused(0, "no key", 0, final=True)
    assert fleet.retry_ns == RETRY_NS


def test_a_connection_that_ends_before_any_handshake_is_a_failed_one() -> None:
    fleet = session_of(1, up=0).fleet
    for _ in range(FAILURES_MAX):
        fleet.due(10**10)
        fleet.down(0, 0)
    assert "hung up" in fleet.refusals

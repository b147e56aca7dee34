"""Who is served: windows, revoked keys, short memory, clients that have gone."""

import signal
from dataclasses import replace

import pytest
import zmq

from narsil_graph.memory_watch import LOOK_NS, MemoryWatch
from narsil_graph.model.weights import Model
from narsil_graph.stop_signals import StopSignals
from narsil_transport.messages import WINDOW_START
from narsil_transport.router import Route
from narsil_transport.status import Status
from narsil_transport.wire import HealthReply, MetadataReply, RefusalReply, encode_cancel, encode_request
from tests.serving.peers import Peer, one_hot
from tests.serving.scripted import HEALTH, METADATA, NEVER, Scripted, bench, statuses


class Keys:
    """Security whose list has no key but the one that this test lets in."""

    def __init__(self) -> None:
        self.allowed = True
        self.problems: list[str] = []
        self._zap: zmq.SyncSocket | None = None

    @property
    def zap_socket(self) -> zmq.SyncSocket:
        assert self._zap is not None
        return self._zap

    def apply(self, socket: zmq.SyncSocket, context: zmq.SyncContext) -> None:
        self._zap = context.socket(zmq.REP)

    def handle(self) -> None:
        raise AssertionError("inproc has no handshakes")

    def permits(self, user_id: str) -> bool:
        return self.allowed

    def reload(self) -> list[str]:
        self.allowed = False
        return self.problems

    def close(self) -> None:
        self.zap_socket.close()


def test_request_beyond_the_window_is_refused_and_the_window_opens_with_each_answer(model: Model) -> None:
    launcher = Scripted(model.spec, polls=[NEVER])
    with bench(model, launcher, window=2) as local:
        local.send(*[one_hot(model, 3)] * 4)
        local.turns(2)
        replies = local.replies()
        assert statuses(replies) == {3: Status.OVERLOADED, 4: Status.OVERLOADED}
        assert isinstance(replies[0], RefusalReply)
        assert replies[0].refusal.detail == "this client has 2 requests unanswered, at most 2 are taken"
        launcher.land()
        local.turns(1)
        assert local.answered() == [1]
        local.send(*[one_hot(model, 3)] * 2)
        local.turns(1)
        assert statuses(local.replies()) == {6: Status.OVERLOADED}


def test_refused_cancelled_and_hopeless_requests_leave_the_window(model: Model) -> None:
    with bench(model, Scripted(model.spec, polls=[NEVER]), window=2) as local:
        local.send(one_hot(model, 3))
        local.turns(1)
        local.send(replace(one_hot(model, 3), model="none"))
        (queued,) = local.send(one_hot(model, 3))
        local.peer.send_frames([encode_cancel(queued)])
        local.send(replace(one_hot(model, 3), deadline_us=1))
        local.turns(2)
        told = statuses(local.replies())
        assert set(told.values()) == {Status.UNKNOWN_MODEL, Status.CANCELLED, Status.WOULD_MISS}
        # One flies, and there is room for just one more.
        accepted, beyond = local.send(*[one_hot(model, 3)] * 2)
        local.turns(1)
        assert statuses(local.replies()) == {beyond: Status.OVERLOADED}
        assert local.server.unanswered() == 2 and accepted not in told


def test_questions_are_answered_with_the_window_full(model: Model) -> None:
    with bench(model, Scripted(model.spec, polls=[NEVER]), window=1) as local:
        local.send(one_hot(model, 3))
        local.peer.send_frames(HEALTH)
        local.peer.send_frames(METADATA)
        local.turns(1)
        assert [type(reply) for reply in local.replies()] == [HealthReply, MetadataReply]


def test_window_of_one_client_is_not_anothers(model: Model) -> None:
    with (
        bench(model, Scripted(model.spec), window=1) as local,
        Peer("inproc://server", context=local.context) as other,
    ):
        local.send(one_hot(model, 3))
        other.send(one_hot(model, 3))
        local.turns(4)
        assert local.answered() == [1]
        assert statuses([other.receive()]) == {1: Status.OK}


@pytest.mark.parametrize(("window", "told"), [(WINDOW_START, None), (7, 7)])
def test_every_kind_of_reply_tells_the_window_unless_clients_know_it(
    model: Model, window: int, told: int | None
) -> None:
    with bench(model, Scripted(model.spec), window=window) as local:
        local.send(one_hot(model, 3))
        local.peer.send_frames(HEALTH)
        local.peer.send_frames(METADATA)
        local.peer.send_frames([b"no header"])
        local.turns(2)
        replies = local.replies()
        assert len({type(reply) for reply in replies}) == 4
        assert [reply.window for reply in replies] == [told] * 4


def test_metadata_tells_the_limits_and_what_was_refused(model: Model) -> None:
    with bench(model, Scripted(model.spec, polls=[NEVER]), window=1) as local:
        local.send(*[one_hot(model, 3)] * 2)
        local.peer.send_frames(METADATA)
        local.turns(1)
        *_, told = local.replies()
        assert isinstance(told, MetadataReply)
        meta = told.meta
        assert (meta["window"], meta["limits"]["frame_bytes_max"]) == (1, 1 << 20)
        assert set(meta["limits"]) == {
            "frame_bytes_max",
            "header_bytes_max",
            "tensors_max",
            "ids_per_row_max",
            "expanded_ids_max",
            "connections_max",
        }
        assert meta["counters"]["peers"]["refused_by_window"] == 1
        assert meta["counters"]["connections"]["memory_cuts"] == 0


def test_revoked_key_is_refused_whatever_it_asks_and_others_stay(model: Model) -> None:
    keys = Keys()
    with bench(model, Scripted(model.spec), security=keys) as local:
        local.send(one_hot(model, 3))
        local.turns(2)
        assert local.answered() == [1]
        keys.allowed = False
        local.send(one_hot(model, 3))
        local.peer.send_frames(HEALTH)
        local.peer.send_frames([encode_cancel(2)])
        local.peer.send_frames([b"no header"])
        local.turns(2)
        assert statuses(local.replies()) == {2: Status.UNAUTHORIZED, 999: Status.UNAUTHORIZED, 0: Status.UNAUTHORIZED}
        assert not local.server.in_flight


def test_hangup_signal_reads_the_keys_again_and_tells_what_is_wrong(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = Keys()
    keys.problems = ["cannot read /keys/one.key: it is empty"]
    with bench(model, Scripted(model.spec), security=keys) as local, StopSignals(reloads=True) as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.reload and not stop.requested
        reload = keys.reload

        def reload_and_stop() -> list[str]:
            stop.requested = True
            return reload()

        keys.reload = reload_and_stop  # type: ignore[method-assign]
        local.send(one_hot(model, 3))
        local.server.run(stop)
        assert not stop.reload
        assert statuses(local.replies()) == {1: Status.UNAUTHORIZED}
    assert capsys.readouterr().err == "narsil-graph: cannot read /keys/one.key: it is empty\n"


def test_without_keys_a_hangup_is_left_to_the_system() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with StopSignals():
        assert signal.getsignal(signal.SIGHUP) is before
    with StopSignals(reloads=True):
        assert signal.getsignal(signal.SIGHUP) is not before
    assert signal.getsignal(signal.SIGHUP) is before


def test_short_memory_refuses_new_work_answers_old_and_lets_in_again(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident, now_ns, cuts = 10, LOOK_NS, list[int]()
    watch = MemoryWatch(1000, resident_bytes=lambda: resident, trim=lambda: None)
    look = watch.look
    monkeypatch.setattr(watch, "look", lambda loop_ns: look(now_ns))
    with bench(model, Scripted(model.spec, polls=[NEVER]), memory=watch) as local:
        monkeypatch.setattr(local.server.router, "cut", lambda: cuts.append(now_ns))
        local.send(one_hot(model, 3))
        local.turns(1)
        resident, now_ns = 950, 2 * LOOK_NS
        local.turns(1)
        local.send(one_hot(model, 3))
        local.peer.send_frames(HEALTH)
        local.launcher.land()
        local.turns(1)
        replies = local.replies()
        assert {type(reply) for reply in replies} >= {HealthReply}
        told = statuses(reply for reply in replies if not isinstance(reply, HealthReply))
        assert told == {1: Status.OK, 2: Status.OVERLOADED}
        assert cuts == []
        resident, now_ns = 1000, 3 * LOOK_NS
        local.turns(2)
        assert cuts == [now_ns]
        resident, now_ns = 10, 4 * LOOK_NS
        local.turns(1)
        local.send(one_hot(model, 3))
        local.turns(1)
        local.launcher.land()
        local.turns(1)
        assert local.answered() == [3]


def test_client_that_has_gone_frees_what_it_had_queued(model: Model) -> None:
    with bench(model, Scripted(model.spec, polls=[NEVER])) as local:
        vanishing = Peer("inproc://server", context=local.context)
        for _ in range(5):
            vanishing.send(one_hot(model, 8))
        local.turns(1)
        vanishing.close()
        assert local.server.unanswered() == 5
        route = local.server.in_flight[0].batch.pieces[0].admitted.route
        assert isinstance(route, Route)
        # Until libzmq has noticed that the peer left.
        while local.server.router.send(route, [b"late"]):
            local.server.router.wait(1)
        local.turns(1)
        assert local.server.unanswered() == len(local.server.in_flight) == 1
        local.send(one_hot(model, 3))
        local.launcher.land()
        local.turns(2)
        local.launcher.land()
        local.turns(1)
        assert local.answered() == [1] and local.server.unanswered() == 0
        assert local.server.router.dropped_replies == 6


def test_unknown_operations_of_shared_memory_are_refused_where_it_is_not_offered(model: Model) -> None:
    with bench(model, Scripted(model.spec)) as local:
        local.peer.send_frames([b"NG\x01\x06\x84\xa2id\x05\xa4name\xa1a\xa5bytes\x08\xa3gen\x01"])
        local.turns(1)
        assert statuses(local.replies()) == {5: Status.UNSUPPORTED}


def test_messages_without_a_reply_cost_the_window_nothing(model: Model) -> None:
    with bench(model, Scripted(model.spec), window=1) as local:
        for _ in range(3):
            local.peer.send_frames([encode_cancel(77)])
        local.peer.send_frames(encode_request(replace(one_hot(model, 3), request_id=9)))
        local.turns(2)
        assert statuses(local.replies()) == {9: Status.OK}

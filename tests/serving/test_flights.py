"""Batches overlap: the next is filled and launched while others fly, and each is answered once it has landed."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narsil_graph import in_flight
from narsil_graph import server as spine
from narsil_graph.engine import engine
from narsil_graph.model.weights import Model
from narsil_graph.pace import IDLE_WAIT_MS, LANDING_WAIT_MS, SPIN_NS, patience_ms
from narsil_transport.batcher import Mode
from narsil_transport.router import Route
from narsil_transport.status import Status
from narsil_transport.wire import Frame, HealthReply, InferRequest, ScoresReply
from tests.serving.peers import Reply, one_hot
from tests.serving.scripted import HEALTH, NEVER, Clock, Scripted, bench, statuses, stopped


def test_batches_are_launched_while_others_fly_until_every_slot_is_taken(model: Model) -> None:
    launcher = Scripted(model.spec, lanes=2, slots_per_lane=2, polls=[NEVER])
    with bench(model, launcher) as local:
        local.send(*[one_hot(model, 3)] * 7)
        local.turns(3)
        assert launcher.calls.count("launch") == len(local.server.in_flight) == 4
        assert local.answered() == []
        launcher.land()
        local.turns(1)
        assert local.answered() == [1, 2, 3, 4]
        local.turns(1)
        assert launcher.calls.count("launch") == len(local.server.in_flight) + 4 == 7


def test_launch_is_asked_once_a_turn_and_never_waited_for(model: Model) -> None:
    launcher = Scripted(model.spec, slots_per_lane=2, polls=[3])
    with bench(model, launcher) as local:
        local.send(one_hot(model, 3))
        local.turns(2)
        assert local.answered() == []
        local.turns(1)
        assert local.answered() == [1]
        assert launcher.calls == ["launch", "ready", "ready", "ready", "scores"]


def test_lane_that_lands_first_is_answered_first(model: Model) -> None:
    with bench(model, Scripted(model.spec, lanes=3, polls=[3, 1, 2])) as local:
        local.send(*[one_hot(model, 3)] * 3)
        got: list[list[int]] = []
        for _ in range(3):
            local.turns(1)
            got.append(local.answered())
        assert got == [[2], [3], [1]]


def test_freed_slot_is_filled_after_its_scores_were_sent(model: Model) -> None:
    """The launcher reads the arena when it is asked for scores: a slot refilled too early would show."""
    requests = [one_hot(model, 5, seed) for seed in range(6)]
    with bench(model, Scripted(model.spec, slots_per_lane=2, polls=[2, 1, 3])) as local:
        local.send(*requests)
        local.turns(12)
        replies = local.replies()
    assert_scored(replies, requests)


def test_slot_is_taken_until_its_replies_were_sent(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(model, Scripted(model.spec, polls=[2])) as local:
        send, rooms = local.server.router.send, list[int]()

        def noted(route: Route, frames: Sequence[Frame]) -> bool:
            rooms.append(local.server.engine.room)
            return send(route, frames)

        monkeypatch.setattr(local.server.router, "send", noted)
        local.send(one_hot(model, 3))
        local.turns(2)
        assert (rooms, local.server.engine.room) == ([0], 1)


def test_launcher_that_returns_with_the_scores_answers_one_batch_a_turn_in_order(model: Model) -> None:
    launcher = Scripted(model.spec)
    with bench(model, launcher) as local:
        local.send(*[one_hot(model, 3)] * 3)
        for number in (1, 2, 3):
            local.turns(1)
            assert local.answered() == [number]
            assert not local.server.in_flight
        assert launcher.calls == ["launch", "ready", "scores"] * 3


def test_expired_request_is_told_while_all_slots_fly(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(spine, "time", clock)
    with bench(model, Scripted(model.spec, polls=[NEVER])) as local:
        local.send(one_hot(model, 3))
        local.turns(1)
        late = local.send(replace(one_hot(model, 3), deadline_us=50))
        local.turns(1)
        assert local.replies() == []
        clock.now_ns += 50_000
        local.turns(1)
        assert statuses(local.replies()) == {late[0]: Status.DEADLINE_EXCEEDED}
        assert len(local.server.in_flight) == 1


def test_health_counts_each_unanswered_request_once(model: Model) -> None:
    with bench(model, Scripted(model.spec, slots_per_lane=2, polls=[NEVER])) as local:
        # Two slots: the second request is cut in three, the first of which flies beside the first request.
        local.send(one_hot(model, 3), one_hot(model, 20), one_hot(model, 2))
        local.turns(1)
        health: list[int] = []
        for _ in range(7):
            local.peer.send_frames(HEALTH)
            local.turns(1)
            (reply,) = (reply for reply in local.replies() if isinstance(reply, HealthReply))
            health.append(reply.inflight)
            local.launcher.land()
        assert health == [3, 3, 2, 2, 1, 1, 0]


def test_requests_that_pour_in_do_not_keep_the_lane_idle(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spine, "TURN_NS", 0)
    with bench(model, Scripted(model.spec, polls=[NEVER])) as local:
        local.send(*[one_hot(model, 3)] * 4)
        local.turns(1)
        assert (len(local.server.in_flight), local.server.batcher.pending_requests) == (1, 0)
        local.turns(3)
        assert (len(local.server.in_flight), local.server.batcher.pending_requests) == (1, 3)


def test_stage_times_of_overlapping_launches_add_up(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(spine, "time", clock)
    monkeypatch.setattr(in_flight, "time", clock)
    monkeypatch.setattr(engine, "time", clock)
    launcher = Scripted(model.spec, slots_per_lane=2, polls=[NEVER])
    with bench(model, launcher) as local:
        # Admitted at 0, launched at 0, 20 and 60 us, landed at 60, 60 and 100 us.
        local.send(one_hot(model, 3))
        local.turns(1)
        local.send(*[one_hot(model, 3)] * 2)
        clock.now_ns += 20_000
        local.turns(1)
        clock.now_ns += 40_000
        launcher.land()
        local.turns(2)
        clock.now_ns += 40_000
        launcher.land()
        local.turns(1)
        times = [reply.times for reply in local.replies() if isinstance(reply, ScoresReply)]
    assert [(time.queue_us, time.launch_us, time.server_us) for time in times] == [
        (0, 60, 60),
        (0, 40, 40),
        (40, 40, 80),
    ]
    assert all(sum(time[:4]) == time.server_us for time in times)


def test_stop_answers_what_flies_and_what_is_queued(model: Model) -> None:
    with bench(model, Scripted(model.spec, lanes=2, polls=[4, 2])) as local:
        numbers = local.send(*[one_hot(model, 20)] * 3)
        local.turns(1)
        local.server.run(stopped())
        assert sorted(local.answered()) == numbers
        assert not local.server.in_flight


@pytest.mark.parametrize(
    ("queued", "in_flight", "since_launch_ns", "linger_ns", "want_ms"),
    [
        (0, 0, 0, 0, 70),
        (3, 0, 0, 0, 0),
        (0, 1, SPIN_NS - 1, 0, 0),
        (0, 1, SPIN_NS, 0, LANDING_WAIT_MS),
        (9, 4, SPIN_NS - 1, 0, 0),
        (9, 4, SPIN_NS, 9_000_000, LANDING_WAIT_MS),
        (9, 0, SPIN_NS, 0, 0),
        (0, 0, SPIN_NS, 0, 70),
        (3, 0, 0, 999_999, 0),
        (3, 0, 0, 2_500_000, 2),
        (3, 0, 0, 900_000_000, 70),
    ],
)
def test_patience_is_the_idle_wait_only_with_nothing_to_wait_for(
    queued: int, in_flight: int, since_launch_ns: int, linger_ns: int, want_ms: int
) -> None:
    got = patience_ms(
        queued=queued, in_flight=in_flight, since_launch_ns=since_launch_ns, linger_ns=linger_ns, idle_ms=70
    )
    assert got == want_ms


def test_loop_spins_after_a_launch_then_sleeps_between_polls_then_idles(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(spine, "time", clock)
    waits: list[int] = []
    with bench(model, Scripted(model.spec, polls=[NEVER])) as local:
        wait = local.server.router.wait

        def noted(wait_ms: int) -> bool:
            waits.append(wait_ms)
            return wait(0)

        monkeypatch.setattr(local.server.router, "wait", noted)
        local.send(one_hot(model, 3))
        for late_ns in (0, SPIN_NS - 1, 1):
            local.server.step(IDLE_WAIT_MS)
            clock.now_ns += late_ns
        local.launcher.land()
        for _ in range(2):
            local.server.step(IDLE_WAIT_MS)
    assert waits == [IDLE_WAIT_MS, 0, 0, LANDING_WAIT_MS, IDLE_WAIT_MS]


def assert_scored(replies: list[Reply], requests: list[InferRequest]) -> None:
    """Each request was scored once, and rightly."""
    assert sorted(reply.request_id for reply in replies) == [*range(1, len(requests) + 1)]
    for reply in replies:
        assert isinstance(reply, ScoresReply)
        np.testing.assert_array_equal(reply.scores, requests[reply.request_id - 1].dense[:, 0])


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    polls=st.lists(st.integers(1, 6), min_size=1, max_size=20),
    lanes=st.integers(1, 3),
    slots_per_lane=st.integers(1, 3),
    mode=st.sampled_from(Mode),
    first=st.integers(0, 12),
)
def test_every_request_is_scored_once_whatever_lands_when(
    model: Model, sizes: list[int], polls: list[int], lanes: int, slots_per_lane: int, mode: Mode, first: int
) -> None:
    requests = [one_hot(model, rows, seed) for seed, rows in enumerate(sizes)]
    launcher = Scripted(model.spec, lanes=lanes, slots_per_lane=slots_per_lane, polls=polls)
    with bench(model, launcher, rows=(2, 8), mode=mode) as local:
        local.send(*requests[:first])
        local.turns(2)
        local.send(*requests[first:])
        local.turns(1)
        local.server.run(stopped())
        assert_scored(local.replies(), requests)

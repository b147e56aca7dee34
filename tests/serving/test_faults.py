"""An accelerator that fails is told to everyone who waits, once, and is never asked again; the process ends."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narsil_graph import server as spine
from narsil_graph.engine.launcher import DeviceFault
from narsil_graph.model.weights import Model
from narsil_graph.pace import LAUNCH_TIMEOUT_NS
from narsil_graph.stop_signals import StopSignals
from narsil_transport.batcher import Mode
from narsil_transport.messages import HealthState
from narsil_transport.status import Status
from narsil_transport.wire import HealthReply, RefusalReply
from tests.serving.peers import Peer, one_hot
from tests.serving.processes import ServerProcess
from tests.serving.scripted import HEALTH, NEVER, Clock, Scripted, bench, statuses, stopped

FAULTS = [DeviceFault("an illegal address"), RuntimeError("no such memory")]


# The verb's second call fails in the turn that read five requests; that for "scores" in the next, which read the rest.
IN_FIRST_TURN = dict.fromkeys(range(1, 6), Status.UNAVAILABLE) | dict.fromkeys(range(6, 9), Status.DRAINING)
IN_SECOND_TURN = {1: Status.OK} | dict.fromkeys(range(2, 9), Status.UNAVAILABLE)


@pytest.mark.parametrize("error", FAULTS, ids=["DeviceFault", "RuntimeError"])
@pytest.mark.parametrize(
    ("verb", "want"), [("launch", IN_FIRST_TURN), ("ready", IN_FIRST_TURN), ("scores", IN_SECOND_TURN)]
)
def test_fault_is_told_once_to_all_who_wait_and_the_engine_is_left_alone(
    model: Model, verb: str, want: dict[int, Status], error: Exception
) -> None:
    launcher = Scripted(model.spec, lanes=2, slots_per_lane=2, polls=[2], fault=(verb, 2, error))
    with bench(model, launcher, receive_max=5) as local:
        local.send(one_hot(model, 3), one_hot(model, 60), *[one_hot(model, 3)] * 6)
        with pytest.raises(type(error), match=str(error)):
            local.server.run(StopSignals())
        assert statuses(local.replies()) == want
    assert launcher.calls[-1] == verb and launcher.calls.count(verb) == 2


def test_split_request_with_pieces_scored_in_flight_and_queued_is_refused_once(model: Model) -> None:
    launcher = Scripted(model.spec, lanes=2, polls=[1, 9], fault=("launch", 4, FAULTS[0]))
    with bench(model, launcher) as local:
        (number,) = local.send(one_hot(model, 60))
        with pytest.raises(DeviceFault):
            local.server.run(StopSignals())
        assert statuses(local.replies()) == {number: Status.UNAVAILABLE}


def test_health_is_draining_and_nothing_waits_after_a_fault(model: Model) -> None:
    launcher = Scripted(model.spec, fault=("launch", 1, FAULTS[0]))
    with bench(model, launcher, receive_max=1) as local:
        local.send(one_hot(model, 3))
        local.peer.send_frames(HEALTH)
        with pytest.raises(DeviceFault):
            local.server.run(StopSignals())
        refused, health = local.replies()
    assert isinstance(refused, RefusalReply) and refused.refusal.detail == "the engine failed; the server is stopping"
    assert isinstance(health, HealthReply) and (health.state, health.inflight) == (HealthState.DRAINING, 0)


def test_launch_that_never_lands_is_a_fault_at_its_timeout(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(spine, "time", clock)
    with bench(model, Scripted(model.spec, slots_per_lane=2, polls=[NEVER])) as local:
        numbers = local.send(one_hot(model, 3), one_hot(model, 3), one_hot(model, 3))
        local.turns(1)
        clock.now_ns += LAUNCH_TIMEOUT_NS
        local.turns(1)
        assert local.replies() == []
        clock.now_ns += 1
        with pytest.raises(DeviceFault, match="a launch has not finished in 10 s"):
            local.server.run(StopSignals())
        assert statuses(local.replies()) == dict.fromkeys(numbers, Status.UNAVAILABLE)


def test_launch_that_landed_while_the_process_was_stopped_is_answered(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(spine, "time", clock)
    with bench(model, Scripted(model.spec, polls=[2])) as local:
        numbers = local.send(one_hot(model, 3))
        local.turns(1)
        clock.now_ns += 2 * LAUNCH_TIMEOUT_NS
        local.turns(1)
        assert local.answered() == numbers


def test_fault_while_draining_is_told_and_raised(model: Model) -> None:
    with bench(model, Scripted(model.spec, polls=[3], fault=("ready", 4, FAULTS[0]))) as local:
        numbers = local.send(*[one_hot(model, 3)] * 3)
        local.turns(1)
        with pytest.raises(DeviceFault):
            local.server.run(stopped())
        assert statuses(local.replies()) == {
            numbers[0]: Status.OK,
            numbers[1]: Status.UNAVAILABLE,
            numbers[2]: Status.UNAVAILABLE,
        }


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=10),
    polls=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    lanes=st.integers(1, 2),
    slots_per_lane=st.integers(1, 2),
    mode=st.sampled_from(Mode),
    verb=st.sampled_from(["launch", "ready", "scores"]),
    count=st.integers(1, 25),
    receive_max=st.integers(1, 6),
)
def test_every_request_is_answered_once_whenever_the_engine_fails(
    model: Model,
    sizes: list[int],
    polls: list[int],
    lanes: int,
    slots_per_lane: int,
    mode: Mode,
    verb: str,
    count: int,
    receive_max: int,
) -> None:
    fault = (verb, count, FAULTS[0])
    launcher = Scripted(model.spec, lanes=lanes, slots_per_lane=slots_per_lane, polls=polls, fault=fault)
    with bench(model, launcher, mode=mode, receive_max=receive_max) as local:
        numbers = local.send(*[one_hot(model, rows) for rows in sizes])
        failed = False
        try:
            while local.server.step(0):
                pass
        except DeviceFault:
            failed = True
        told = statuses(local.replies())
    assert set(told) == set(numbers)
    assert failed == (launcher.calls.count(verb) == count)
    assert failed or set(told.values()) == {Status.OK}
    assert not failed or launcher.calls[-1] == verb


# The start-up check needs a sound engine: it breaks as soon as the server is ready.
BREAKING = """
from narsil_graph import serving
from narsil_graph.__main__ import main
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.launcher import DeviceFault

def fail(self, flight):
    raise DeviceFault("CUDA said: an illegal memory access was encountered")

def tell_and_break(*arguments):
    tell_ready(*arguments)
    Engine.landed = fail

tell_ready, serving.tell_ready = serving.tell_ready, tell_and_break
main()
"""


def test_device_fault_ends_the_process_with_one_sentence(tmp_path: Path, model: Model) -> None:
    with ServerProcess(tmp_path, "--buckets", "8", python=("-c", BREAKING)) as server, Peer(server.endpoint) as peer:
        assert peer.refusal(one_hot(model, 3)).status is Status.UNAVAILABLE
        assert server.ended() == 1
        assert server.log.splitlines()[-1] == "narsil-graph: CUDA said: an illegal memory access was encountered"
        assert "Traceback" not in server.log

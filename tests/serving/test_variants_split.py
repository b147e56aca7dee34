"""Which of a server's models scores a request, and that nothing of it is lost with either."""

from dataclasses import replace

import numpy as np
import pytest

from narsil_graph.engine.engine import Engine
from narsil_graph.engine.launcher import DeviceFault
from narsil_graph.model.weights import Model
from narsil_graph.schedule import Schedule
from narsil_graph.stop_signals import StopSignals
from narsil_transport.batcher import Batcher, Mode
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.router import Route
from narsil_transport.status import Status
from narsil_transport.wire import HealthReply, RefusalReply, ScoresReply, encode_cancel
from tests.serving.peers import one_hot
from tests.serving.scripted import HEALTH, NEVER, Scripted, bench, statuses
from tests.serving.variants_rig import Shifted, chosen, halved_by, key_of, keyed, parts, told


def test_reply_says_which_variant_scored_it_and_carries_that_ones_version(model: Model) -> None:
    with bench(model, Scripted(model.spec), others=halved_by(model, Shifted(model.spec))) as local:
        requests = [keyed(one_hot(model, 3), key_of(local, name)) for name in "AB"]
        local.send(*requests)
        local.turns(2)
        main, other = local.replies()
        assert isinstance(main, ScoresReply) and isinstance(other, ScoresReply)
    assert (main.variant, main.version) == ("A", model.version)
    assert (other.variant, other.version) == ("B", "new")
    np.testing.assert_array_equal(main.scores, requests[0].dense[:, 0])
    np.testing.assert_array_equal(other.scores, requests[1].dense[:, 0] + np.float32(0.25))


def test_server_of_one_model_names_no_variant(model: Model) -> None:
    with bench(model, Scripted(model.spec)) as local:
        local.send(keyed(one_hot(model, 3), "somebody"))
        local.turns(1)
        (reply,) = local.replies()
        assert isinstance(reply, ScoresReply) and reply.variant is None
        assert told(local) == {}


def test_key_keeps_its_variant_and_variants_get_their_shares(model: Model) -> None:
    variants = parts(model, ("B", 0.1), ("C", 0.3))
    keys = [f"user-{number}" for number in range(4000)]
    names = [chosen(variants, key) for key in keys]
    another_server = parts(model, ("B", 0.1), ("C", 0.3))
    assert [chosen(another_server, key) for key in keys[:50]] == names[:50]
    # Four standard deviations of 4000 draws.
    for name, share in (("A", 0.6), ("B", 0.1), ("C", 0.3)):
        assert abs(names.count(name) / len(names) - share) < 4 * (share * (1 - share) / len(names)) ** 0.5


def test_larger_share_keeps_the_keys_of_the_smaller(model: Model) -> None:
    keys = [str(number) for number in range(500)]
    before, after = ({key for key in keys if chosen(parts(model, ("B", share)), key) == "B"} for share in (0.1, 0.2))
    assert before < after


def test_another_experiment_meets_other_keys(model: Model) -> None:
    keys = [str(number) for number in range(500)]
    first, second = ({key for key in keys if chosen(parts(model, (name, 0.1)), key) == name} for name in ("B", "C"))
    assert first - second and second - first


@pytest.mark.parametrize("key", [None, ""])
def test_request_without_a_key_goes_by_its_id(model: Model, key: str | None) -> None:
    variants = parts(model, ("B", 0.5))
    names = [chosen(variants, key, request_id=number) for number in range(100)]
    assert 20 < names.count("B") < 80
    assert names == [chosen(variants, key, request_id=number) for number in range(100)]


def test_order_of_the_options_moves_no_key(model: Model) -> None:
    keys = [str(number) for number in range(200)]
    there, here = parts(model, ("B", 0.3), ("C", 0.2)), parts(model, ("C", 0.2), ("B", 0.3))
    assert [chosen(there, key) for key in keys] == [chosen(here, key) for key in keys]


def test_queue_of_one_variant_is_waited_for_by_the_requests_of_another(model: Model) -> None:
    launch_ns = 10_000_000

    def slow(engine: Engine) -> Schedule:
        cost = CostModel({bucket: LaunchCost(launch_ns, launch_ns) for bucket in engine.ladder.buckets})
        batcher = Batcher(ladder=engine.ladder, cost=cost, mode=Mode.WORKER, queue_rows_max=100)
        return Schedule(batcher, cost, lanes=engine.lanes)

    flying = Scripted(model.spec, polls=[NEVER])
    with bench(model, flying, schedule=slow, others=halved_by(model, Scripted(model.spec))) as local:
        ours, theirs = (keyed(one_hot(model, 3), key_of(local, name)) for name in "AB")
        local.send(theirs)
        local.turns(1)
        local.send(*[ours] * 4)
        local.turns(1)
        local.replies()
        # Of B's launches, of some microseconds, each follows one of A's three that are queued.
        late, possible = local.send(*[replace(theirs, deadline_us=budget_us) for budget_us in (9_000, 60_000_000)])
        local.turns(1)
        refused, scored = local.replies()
        assert statuses([refused, scored]) == {late: Status.WOULD_MISS, possible: Status.OK}
        assert isinstance(refused, RefusalReply) and refused.refusal.predicted_us is not None
        assert 10_000 <= refused.refusal.predicted_us < 20_000


def test_idle_variant_is_waited_for_by_nobody(model: Model) -> None:
    with bench(model, Scripted(model.spec), others=halved_by(model, Scripted(model.spec))) as local:
        (number,) = local.send(replace(keyed(one_hot(model, 3), key_of(local, "B")), deadline_us=10_000))
        local.turns(1)
        assert statuses(local.replies()) == {number: Status.OK}


def test_what_a_variant_refuses_is_counted_as_its_own_and_carries_its_version(model: Model) -> None:
    with bench(model, Scripted(model.spec), others=halved_by(model, Scripted(model.spec, polls=[NEVER]))) as local:
        request = keyed(one_hot(model, 3), key_of(local, "B"))
        hopeless, _, queued = local.send(replace(request, deadline_us=1), request, request)
        unknown = local.peer.send(replace(request, model="another"))
        local.turns(1)
        local.peer.send_frames([encode_cancel(queued)])
        local.turns(1)
        got = {reply.request_id: reply for reply in local.replies()}
        assert statuses(got.values()) == {
            hopeless: Status.WOULD_MISS,
            unknown: Status.UNKNOWN_MODEL,
            queued: Status.CANCELLED,
        }
        assert [got[number].version for number in (hopeless, queued, unknown)] == ["new", "new", model.version]
        variants = told(local)
    assert variants["B"]["refused"] == {"WOULD_MISS": 1, "CANCELLED": 1} and variants["A"]["refused"] == {}


def test_cancel_and_a_lost_client_reach_the_queue_of_every_variant(model: Model) -> None:
    with bench(model, Scripted(model.spec), others=halved_by(model, Scripted(model.spec, polls=[NEVER]))) as local:
        queued = local.server.variants[1].schedule.batcher
        request = keyed(one_hot(model, 3), key_of(local, "B"))
        _, second, _ = local.send(request, request, request)
        local.turns(1)
        local.peer.send_frames([encode_cancel(second)])
        local.peer.send_frames(HEALTH)
        local.turns(1)
        cancelled, health = local.replies()
        assert statuses([cancelled]) == {second: Status.CANCELLED}
        assert isinstance(health, HealthReply) and health.inflight == 2
        assert queued.pending_requests == 1
        (flying,) = local.server.variants[1].in_flight
        route = flying.batch.pieces[0].admitted.route
        assert isinstance(route, Route)
        local.server.door.forget([route.identity])
        assert queued.pending_requests == 0


@pytest.mark.parametrize("verb", ["launch", "ready", "scores"])
def test_fault_of_one_variant_is_told_to_those_who_wait_for_any(model: Model, verb: str) -> None:
    faulty = Scripted(model.spec, fault=(verb, 1, DeviceFault("it broke")))
    with bench(model, Scripted(model.spec, polls=[NEVER]), others=halved_by(model, faulty)) as local:
        numbers = local.send(*[keyed(one_hot(model, 3), key_of(local, name)) for name in "AAB"])
        with pytest.raises(DeviceFault):
            local.server.run(StopSignals())
        assert statuses(local.replies()) == dict.fromkeys(numbers, Status.UNAVAILABLE)

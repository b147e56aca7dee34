"""A shadow scores what has been answered, when nothing else is to do, and is compared."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from narsil_graph import variants as variants_module
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.launcher import DeviceFault
from narsil_graph.errors import Failure
from narsil_graph.lazy_capture import LazyCapture
from narsil_graph.memory_watch import LOOK_NS, MemoryWatch
from narsil_graph.model.weights import Model
from narsil_graph.pace import IDLE_WAIT_MS
from narsil_graph.schedule import Schedule
from narsil_graph.stop_signals import StopSignals
from narsil_graph.variants import Comparison, Variant
from narsil_transport.batcher import Batcher, Mode
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.status import Status
from tests.serving.peers import one_hot
from tests.serving.scripted import HEALTH, NEVER, Scripted, bench, statuses, stopped
from tests.serving.variants_rig import Shifted, shadow, shadowed_by, told


def test_shadow_scores_what_was_answered_and_no_client_hears_of_it(model: Model) -> None:
    launcher = Shifted(model.spec)
    with bench(model, Scripted(model.spec), others=shadowed_by(shadow(model, launcher))) as local:
        numbers = local.send(one_hot(model, 3), one_hot(model, 5))
        local.turns(5)
        assert local.answered() == numbers
        variants = told(local)
    assert launcher.calls.count("launch") == 2
    assert {name: each["role"] for name, each in variants.items()} == {"A": "main", "B": "shadow"}
    assert [(each["requests"], each["rows"], each["share"]) for each in variants.values()] == [(2, 8, 1.0), (2, 8, 0.0)]
    assert variants["A"]["server_us"]["count"] == 2 and variants["B"]["server_us"]["count"] == 0
    assert variants["A"]["launch_us"]["count"] == variants["B"]["launch_us"]["count"] == 2
    assert variants["B"]["score_mean"] == pytest.approx(variants["A"]["score_mean"] + 0.25)
    agreement = variants["B"]["agreement"]
    assert agreement["score_max_diff"] == pytest.approx(0.25) and agreement["score_mean_diff"] == pytest.approx(0.25)
    assert (agreement["requests"], agreement["rank_agreement"], agreement["top_kept"]) == (2, 1.0, 1.0)
    assert "agreement" not in variants["A"]


def test_shadow_is_compared_with_what_was_sent_though_the_slot_was_used_again(model: Model) -> None:
    variant = shadow(model, Scripted(model.spec))
    with bench(model, Scripted(model.spec), others=shadowed_by(variant)) as local:
        local.send(*[one_hot(model, 5, seed) for seed in range(4)])
        local.turns(12)
        agreement = told(local)["B"]["agreement"]
    assert (agreement["requests"], agreement["score_max_diff"]) == (4, 0.0)


def test_shadow_waits_while_anything_is_queued_or_flies(model: Model) -> None:
    launcher = Scripted(model.spec)
    with bench(model, Scripted(model.spec, polls=[1, NEVER]), others=shadowed_by(shadow(model, launcher))) as local:
        local.send(*[one_hot(model, 3)] * 3)
        local.turns(5)
        # One has been answered, one flies, one is queued.
        assert local.answered() == [1] and launcher.calls == []
        local.launcher.land()
        local.turns(1)
        assert local.answered() == [2] and launcher.calls == []


def test_shadow_does_not_launch_in_a_turn_in_which_something_came(model: Model) -> None:
    launcher = Scripted(model.spec)
    with bench(model, Scripted(model.spec), others=shadowed_by(shadow(model, launcher))) as local:
        local.send(one_hot(model, 3))
        local.turns(1)
        assert local.answered() == [1] and launcher.calls == []
        local.peer.send_frames(HEALTH)
        local.turns(1)
        assert launcher.calls == []
        local.turns(1)
        assert launcher.calls == ["launch", "ready", "scores"]


def test_request_that_comes_while_a_shadow_flies_is_launched_at_once_and_no_other_shadow(model: Model) -> None:
    first, second = Scripted(model.spec, slots_per_lane=2, polls=[NEVER]), Scripted(model.spec)
    variants = [shadow(model, first, name="B"), shadow(model, second, name="C")]
    with bench(model, Scripted(model.spec), others=shadowed_by(*variants)) as local:
        local.send(*[one_hot(model, 3)] * 3)
        local.turns(8)
        assert local.answered() == [1, 2, 3]
        assert first.calls.count("launch") == 1 and second.calls == []
        local.send(one_hot(model, 3))
        local.turns(1)
        assert local.answered() == [4]
        assert first.calls.count("launch") == 1 and second.calls == []


def test_shadow_drops_and_counts_what_it_has_no_room_for(model: Model) -> None:
    variant = shadow(model, Scripted(model.spec), queue_rows_max=6)
    with bench(model, Scripted(model.spec), others=shadowed_by(variant)) as local:
        numbers = local.send(*[one_hot(model, 3)] * 3, one_hot(model, 8))
        local.turns(4)
        assert local.answered() == numbers
        assert told(local)["B"]["dropped"] == 2


def test_shadow_of_many_small_requests_keeps_few_of_them(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants_module, "COPIES_MAX", 2)
    variant = shadow(model, Scripted(model.spec))
    with bench(model, Scripted(model.spec), others=shadowed_by(variant)) as local:
        numbers = local.send(*[one_hot(model, 1)] * 4)
        local.turns(3)
        assert local.answered() == numbers[:3]
        assert variant.schedule.batcher.pending_requests == 2
        local.turns(3)
        assert local.answered() == numbers[3:]
        assert told(local)["B"]["dropped"] == 2


def test_short_memory_is_taken_from_the_shadow_first(model: Model) -> None:
    resident = 0
    watch = MemoryWatch(1000, resident_bytes=lambda: resident, trim=lambda: None)
    variant = shadow(model, Scripted(model.spec))
    with bench(model, Scripted(model.spec), others=shadowed_by(variant), memory=watch) as local:
        numbers = local.send(*[one_hot(model, 3)] * 3)
        local.turns(2)
        assert variant.schedule.batcher.pending_requests == 2
        resident = 950
        local.server.guard(watch.look(LOOK_NS << 40))
        assert variant.schedule.batcher.pending_requests == 0
        local.turns(1)
        assert local.answered() == numbers
        assert isinstance(variant.answers, Comparison) and variant.answers.dropped_copies == 2


@pytest.mark.parametrize("verb", ["launch", "scores"])
def test_expendable_shadow_that_fails_is_left_out_and_everything_else_goes_on(
    model: Model, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty, sound = Scripted(model.spec, fault=(verb, 2, RuntimeError("no memory"))), Scripted(model.spec)
    variants = [shadow(model, faulty, expendable=True), shadow(model, sound, name="C", expendable=True)]
    with bench(model, Scripted(model.spec), others=shadowed_by(*variants)) as local:
        numbers = local.send(*[one_hot(model, 3)] * 3)
        local.turns(12)
        numbers += local.send(one_hot(model, 3))
        local.turns(3)
        assert local.answered() == numbers
        metadata = told(local)
    assert faulty.calls.count("launch") == 2 and not variants[0].busy
    assert metadata["B"]["failed"] == "RuntimeError: no memory"
    assert (metadata["B"]["requests"], metadata["B"]["dropped"]) == (1, 3)
    assert metadata["C"]["requests"] == 4 and "failed" not in metadata["C"]
    assert capsys.readouterr().err == "narsil-graph: shadow B has failed and is left out: no memory\n"


def test_fault_of_a_shadow_that_is_not_expendable_ends_the_server(model: Model) -> None:
    faulty = Scripted(model.spec, fault=("launch", 1, DeviceFault("it broke")))
    with bench(model, Scripted(model.spec), others=shadowed_by(shadow(model, faulty))) as local:
        numbers = local.send(one_hot(model, 3))
        with pytest.raises(DeviceFault, match="it broke"):
            local.server.run(StopSignals())
        assert local.answered() == numbers


def test_refused_request_is_not_shadowed(model: Model) -> None:
    variant = shadow(model, Scripted(model.spec))
    with bench(model, Scripted(model.spec), others=shadowed_by(variant)) as local:
        (number,) = local.send(replace(one_hot(model, 3), model="another"))
        local.turns(3)
        assert statuses(local.replies()) == {number: Status.UNKNOWN_MODEL}
        assert told(local)["B"]["requests"] == 0


def test_shadow_waits_for_no_deadline(model: Model) -> None:
    launcher = Scripted(model.spec)
    variant = shadow(model, launcher)
    with bench(model, Scripted(model.spec), others=shadowed_by(variant)) as local:
        local.send(replace(one_hot(model, 3), deadline_us=60_000_000))
        local.turns(1)
        (copy,) = variant.schedule.batcher.cancel(lambda queued: True)
        assert copy.deadline_ns is None


def test_stopping_server_answers_everyone_and_drops_what_its_shadow_has_not_scored(model: Model) -> None:
    launcher = Scripted(model.spec, polls=[NEVER])
    variant = shadow(model, launcher)
    with bench(model, Scripted(model.spec), others=shadowed_by(variant)) as local:
        numbers = local.send(*[one_hot(model, 3)] * 4)
        local.turns(1)
        local.server.run(stopped())
        assert local.answered() == numbers
        assert not variant.busy and launcher.calls == []
        assert isinstance(variant.answers, Comparison) and variant.answers.dropped_copies == 1


def incomplete(model: Model, verify: Callable[[Bucket], object]) -> Variant:
    """An expendable shadow with a bucket still to be captured."""
    launcher = Scripted(model.spec)
    engine = Engine(launcher, BucketLadder.from_rows((2, 8), ids_per_row=len(model.spec.sparse_features)))
    engine.capture(engine.ladder.buckets[-1])
    cost = CostModel({bucket: LaunchCost(1000, 1000) for bucket in engine.ladder.buckets})
    batcher = Batcher(ladder=engine.captured_ladder, cost=cost, mode=Mode.WORKER, queue_rows_max=100)
    lazy, variant = LazyCapture(engine, verify), shadow(model, launcher, expendable=True)
    return replace(variant, engine=engine, lazy=lazy, schedule=Schedule(batcher, cost))


def test_shadow_whose_late_bucket_scores_wrongly_is_left_out(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    def verify(bucket: Bucket) -> None:
        raise Failure(f"bucket {bucket.rows} is wrong")

    late = incomplete(model, verify)
    with bench(model, Scripted(model.spec), others=shadowed_by(late)) as local:
        local.server.use_the_silence()
        assert local.server.idle_wait_ms() == IDLE_WAIT_MS and not local.server.door.draining
        assert told(local)["B"]["failed"] == "Failure: bucket 2 is wrong"
    assert capsys.readouterr().err == "narsil-graph: shadow B has failed and is left out: bucket 2 is wrong\n"


def test_idle_server_captures_the_missing_buckets_of_every_variant(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    stop, verified = StopSignals(), list[int]()

    def verify(bucket: Any) -> None:
        verified.append(bucket.rows)
        stop.requested = True

    late = incomplete(model, verify)
    with bench(model, Scripted(model.spec), others=shadowed_by(late)) as local:
        local.server.run(stop)
    assert verified == [2] and late.lazy.missing == []
    assert capsys.readouterr().err.startswith("captured     2 rows")


def test_shadow_with_the_longest_queue_launches_first(model: Model) -> None:
    short, long = Scripted(model.spec), Scripted(model.spec)
    variants = [shadow(model, short, name="B", queue_rows_max=4), shadow(model, long, name="C")]
    with bench(model, Scripted(model.spec), others=shadowed_by(*variants)) as local:
        local.send(*[one_hot(model, 3)] * 2)
        local.turns(2)
        assert short.calls == [] and long.calls.count("launch") == 1
        local.turns(1)
        assert short.calls.count("launch") == 1


def test_loop_does_not_sleep_while_a_shadow_has_something_to_score(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench(model, Scripted(model.spec), others=shadowed_by(shadow(model, Scripted(model.spec)))) as local:
        wait, waits = local.server.router.wait, list[int]()

        def noted(wait_ms: int) -> bool:
            waits.append(wait_ms)
            return wait(0)

        monkeypatch.setattr(local.server.router, "wait", noted)
        local.send(one_hot(model, 3))
        assert [local.server.step(70) for _ in range(3)] == [True, True, False]
    assert waits == [70, 0, 70]

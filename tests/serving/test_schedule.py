"""What the server does with time and cost: refuses what would miss, frees what nobody waits for, learns, records."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from narsil_graph import server as spine
from narsil_graph.engine import engine as engine_module
from narsil_graph.engine.engine import Engine
from narsil_graph.model.weights import Model
from narsil_graph.replan import Replanner
from narsil_graph.schedule import Schedule
from narsil_graph.trace import Recorder, TraceHeader, read_trace
from narsil_transport.batcher import Batcher, Mode
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.router import Route
from narsil_transport.status import Status
from narsil_transport.wire import Frame, InferRequest, MetadataReply, Priority, RefusalReply, encode_cancel
from tests.serving.peers import Peer, one_hot
from tests.serving.scripted import METADATA, NEVER, Clock, Scripted, bench, statuses

LAUNCH_NS = 10_000_000


def with_costs(launch_ns: int = LAUNCH_NS, **watching: object) -> Callable[[Engine], Schedule]:
    """A schedule that takes every launch for ``launch_ns``."""

    def schedule(engine: Engine) -> Schedule:
        cost = CostModel({bucket: LaunchCost(launch_ns, launch_ns) for bucket in engine.ladder.buckets})
        batcher = Batcher(ladder=engine.captured_ladder, cost=cost, mode=Mode.WORKER, queue_rows_max=1 << 16)
        return Schedule(batcher, cost, lanes=engine.lanes, **watching)  # type: ignore[arg-type]

    return schedule


def within(model: Model, budget_us: int) -> InferRequest:
    return replace(one_hot(model, 3), deadline_us=budget_us)


def test_request_that_would_miss_is_refused_at_once_with_the_prediction(model: Model) -> None:
    with bench(model, Scripted(model.spec, polls=[NEVER]), schedule=with_costs()) as local:
        (flying,) = local.send(one_hot(model, 3))
        local.turns(1)
        late, possible = local.send(within(model, 15_000), within(model, 60_000_000))
        local.turns(1)
        (refused,) = local.replies()
        assert isinstance(refused, RefusalReply) and refused.request_id == late
        assert refused.refusal.status is Status.WOULD_MISS
        # The launch in flight, and its own behind it.
        assert refused.refusal.predicted_us is not None and 15_000 < refused.refusal.predicted_us <= 21_000
        assert refused.refusal.retry_after_us is not None and 0 < refused.refusal.retry_after_us <= 12_000
        local.launcher.land()
        local.turns(2)
        local.launcher.land()
        local.turns(2)
        assert local.answered() == [flying, possible]


def test_default_budget_is_that_of_requests_that_name_none(model: Model) -> None:
    schedule = with_costs(default_deadline_us=5_000)
    with bench(model, Scripted(model.spec), schedule=schedule) as local:
        none, ample = local.send(one_hot(model, 3), within(model, 60_000_000))
        local.turns(3)
        assert statuses(local.replies()) == {none: Status.WOULD_MISS, ample: Status.OK}


def test_cancelled_request_frees_its_rows_and_is_told_once(model: Model) -> None:
    with bench(model, Scripted(model.spec, polls=[NEVER])) as local:
        flying, cancelled, other = local.send(*[one_hot(model, 3)] * 3)
        local.turns(2)
        for number in (cancelled, flying, 12345, cancelled):
            local.peer.send_frames([encode_cancel(number)])
        local.turns(2)
        assert local.server.batcher.pending_requests == 1
        for _ in range(2):
            local.launcher.land()
            local.turns(2)
        assert statuses(local.replies()) == {flying: Status.OK, cancelled: Status.CANCELLED, other: Status.OK}


def test_request_of_another_peer_is_not_cancelled(model: Model) -> None:
    with bench(model, Scripted(model.spec, polls=[NEVER])) as local:
        number, queued = local.send(*[one_hot(model, 3)] * 2)
        local.turns(2)
        with Peer("inproc://server", context=local.context) as stranger:
            stranger.send_frames([encode_cancel(queued)])
            local.turns(2)
        for _ in range(2):
            local.launcher.land()
            local.turns(2)
        assert sorted(local.answered()) == [number, queued]


def test_rows_of_a_peer_that_has_gone_are_freed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(model, Scripted(model.spec, polls=[NEVER])) as local:
        router = local.server.router
        with Peer("inproc://server", context=local.context) as leaving:
            for _ in range(3):
                leaving.send(one_hot(model, 3))
            local.turns(2)
            gone = {piece.admitted.route.identity for piece in local.server.in_flight[0].batch.pieces}  # type: ignore[attr-defined]
            staying = local.peer.send(one_hot(model, 3))
            local.turns(2)
            assert local.server.batcher.pending_requests == 3
            # libzmq notices a closed peer some time later: this is how it then answers.
            send = router.send

            def sent(route: Route, frames: Sequence[Frame]) -> bool:
                if route.identity in gone:
                    router.peers.forget(route.identity)
                return route.identity not in gone and send(route, frames)

            monkeypatch.setattr(router, "send", sent)
            # The first answer finds nobody there; the next launch is the other peer's.
            for _ in range(2):
                local.launcher.land()
                local.turns(2)
            assert local.launcher.calls.count("launch") == 2
            assert local.answered() == [staying]
            assert local.server.batcher.pending_requests == 0


def test_costs_follow_what_launches_take_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(spine, "time", clock)
    monkeypatch.setattr(engine_module, "time", clock)
    launcher = Scripted(model.spec, slots_per_lane=2, polls=[NEVER])
    with bench(model, launcher, schedule=with_costs()) as local:
        cost, (bucket,) = local.server.schedule.cost, local.server.engine.ladder.buckets
        local.send(one_hot(model, 3), one_hot(model, 3))
        local.turns(3)
        assert len(local.server.in_flight) == 2
        # The second waited for the first: what it took says nothing of its cost.
        clock.now_ns += 2 * LAUNCH_NS
        launcher.land()
        local.turns(1)
        assert LAUNCH_NS < cost.launch_ns(bucket) < 2 * LAUNCH_NS
        assert cost.launch_ns(bucket) == LAUNCH_NS + LAUNCH_NS // 8


def test_metadata_tells_costs(model: Model) -> None:
    with bench(model, Scripted(model.spec), schedule=with_costs()) as local:
        local.peer.send_frames(METADATA)
        local.turns(1)
        (reply,) = local.replies()
        assert isinstance(reply, MetadataReply)
        (bucket,) = reply.meta["cost"]["buckets"]
        assert (bucket["rows"], bucket["median_us"], bucket["now_us"]) == (8, 10_000.0, 10_000.0)


def test_every_admitted_request_is_recorded_with_its_outcome(model: Model, tmp_path: Path) -> None:
    ladder = BucketLadder((Bucket(8, 8 * 26),))
    header = TraceHeader(model="m", version="v", machine="here", ladder=ladder, started_unix_ns=0)
    recorder = Recorder(tmp_path / "trace", header=header, size_mib_max=1, began_ns=0)
    with bench(model, Scripted(model.spec), schedule=with_costs(recorder=recorder)) as local:
        bulk = replace(one_hot(model, 2), priority=Priority.BULK)
        numbers = local.send(one_hot(model, 3), within(model, 1), bulk, within(model, 60_000_000))
        local.turns(8)
        assert len(statuses(local.replies())) == len(numbers)
    recorder.close()
    records = np.sort(read_trace(tmp_path / "trace").records, order="rows")
    assert records["rows"].tolist() == [2, 3, 3, 3]
    assert records["bulk"].tolist() == [1, 0, 0, 0]
    assert sorted(records["status"].tolist()) == [Status.OK, Status.OK, Status.OK, Status.WOULD_MISS]
    assert sorted(records["deadline_us"].tolist()) == [0, 0, 1, 60_000_000]
    assert records["ids"].tolist() == [rows * 26 for rows in (2, 3, 3, 3)]


class Proposing(Replanner):
    """Proposes ``better`` once."""

    def __init__(self, ladder: BucketLadder, better: BucketLadder) -> None:
        super().__init__(ladder)
        self.proposals = [better]

    def propose(self, now_ns: int, cost: CostModel, current: BucketLadder) -> BucketLadder | None:
        return self.proposals.pop() if self.proposals else None


def test_better_ladder_is_used_once_all_of_it_is_captured(model: Model) -> None:
    ids = len(model.spec.sparse_features)
    first, better = (BucketLadder.from_rows(rows, ids_per_row=ids) for rows in ((2, 8), (3, 5, 8)))

    def schedule(engine: Engine) -> Schedule:
        made = with_costs(replanner=Proposing(first, better))(engine)
        for bucket in better.buckets:
            made.cost.add(bucket, LaunchCost(bucket.rows, bucket.rows))
        return made

    with bench(model, Scripted(model.spec), rows=(2, 8), schedule=schedule) as local:
        served: list[int] = []
        for _ in range(4):
            local.send(one_hot(model, 3))
            local.turns(3)
            served += [reply.bucket_rows for reply in local.replies()]  # type: ignore[union-attr]
            local.server.use_the_silence()
        assert served == [8, 8, 8, 3]
        assert {bucket.rows for bucket in local.server.engine.captured} == {2, 3, 5, 8}
        assert local.server.engine.captured_ladder == better

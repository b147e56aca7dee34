"""With lazy capture the largest bucket serves first, and the others are captured when nothing else is to do."""

import pytest

from narsil_graph.engine.launcher import DeviceFault
from narsil_graph.errors import Failure
from narsil_graph.lazy_capture import next_capture
from narsil_graph.model.weights import Model
from narsil_graph.pace import CAPTURE_WAIT_MS, IDLE_WAIT_MS
from narsil_graph.replan import Replanner
from narsil_graph.stop_signals import StopSignals
from narsil_transport.batcher import Mode
from narsil_transport.buckets import Bucket
from narsil_transport.status import Status
from narsil_transport.wire import MetadataReply, ScoresReply
from tests.serving.peers import one_hot
from tests.serving.scripted import METADATA, NEVER, Bench, Scripted, bench, statuses

ROWS = (1, 2, 8)
ONE, TWO, FOUR = (Bucket(rows, 10 * rows) for rows in (1, 2, 4))


@pytest.mark.parametrize(
    ("wanted", "want"),
    [
        ({}, FOUR),
        ({ONE: 1}, ONE),
        ({ONE: 3, TWO: 4}, TWO),
        ({ONE: 3, TWO: 3}, TWO),
        ({ONE: 3, TWO: 3, FOUR: 3}, FOUR),
        ({Bucket(8, 80): 9, ONE: 1}, ONE),
    ],
)
def test_next_is_what_most_batches_wanted_then_the_largest(wanted: dict[Bucket, int], want: Bucket) -> None:
    assert next_capture([ONE, TWO, FOUR], wanted) == want


class Verified:
    """Notes what it is asked to verify, and asks for a stop at the ``last``."""

    def __init__(self, last: int) -> None:
        self.rows: list[int] = []
        self.stop = StopSignals()
        self._last = last

    def __call__(self, bucket: Bucket) -> None:
        self.rows.append(bucket.rows)
        self.stop.requested = len(self.rows) == self._last


def served_in(local: Bench) -> list[int]:
    """The buckets of the replies so far."""
    replies = local.replies()
    assert all(isinstance(reply, ScoresReply) for reply in replies)
    return [reply.bucket_rows for reply in replies if isinstance(reply, ScoresReply)]


def test_idle_server_captures_verifies_and_uses_the_wanted_buckets_first(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    verify = Verified(last=2)
    with bench(model, Scripted(model.spec), rows=ROWS, captured=(8,), verify=verify) as local:
        local.send(*[one_hot(model, 1)] * 3, *[one_hot(model, 2)] * 2)
        local.server.run(verify.stop)
        assert served_in(local) == [8] * 5
        assert verify.rows == [1, 2]
        local.send(one_hot(model, 1), one_hot(model, 2), one_hot(model, 3))
        local.server.door.draining = False
        local.turns(3)
        assert served_in(local) == [1, 2, 8]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("captured     1 rows in ") and second.startswith("captured     2 rows in ")


def test_bucket_is_used_by_the_next_batch_while_others_are_still_missing(model: Model) -> None:
    verify = Verified(last=1)
    with bench(model, Scripted(model.spec), rows=ROWS, captured=(8,), verify=verify) as local:
        local.server.run(verify.stop)
        local.server.door.draining = False
        local.send(one_hot(model, 1), one_hot(model, 2))
        local.turns(2)
        assert verify.rows == [2]
        # The smallest captured bucket that covers it.
        assert served_in(local) == [2, 2]


def test_nothing_is_captured_while_a_batch_is_queued_or_flies(model: Model) -> None:
    launcher = Scripted(model.spec, slots_per_lane=2, polls=[NEVER])
    with bench(model, launcher, rows=ROWS, captured=(8,)) as local:
        assert not local.server.step(0)
        local.send(*[one_hot(model, 1)] * 3)
        assert [local.server.step(0) for _ in range(4)] == [True] * 4
        launcher.land()
        # The turn that lands a batch was not a silent one.
        assert local.server.step(0)
        assert [launcher.calls.count("launch"), len(local.server.in_flight)] == [2, 0]
        launcher.land()
        assert local.server.step(0)
        launcher.land()
        assert local.server.step(0)
        assert not local.server.step(0)


@pytest.mark.parametrize("replans", [False, True])
@pytest.mark.parametrize("captured", [(8,), ROWS])
def test_short_silence_is_awaited_while_buckets_are_or_may_be_missing_and_a_stop_ends_it(
    model: Model, captured: tuple[int, ...], replans: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher, stop, waits = Scripted(model.spec), StopSignals(), list[int]()
    with bench(model, launcher, rows=ROWS, captured=captured) as local:
        if replans:
            local.server.schedule.replanner = Replanner(local.server.engine.ladder)
        wait = local.server.router.wait

        def stopped(wait_ms: int) -> bool:
            stop.requested = True
            waits.append(wait_ms)
            return wait(0)

        monkeypatch.setattr(local.server.router, "wait", stopped)
        local.server.run(stop)
    assert waits[0] == (CAPTURE_WAIT_MS if replans or captured != ROWS else IDLE_WAIT_MS)
    assert launcher.calls == []


def test_metadata_tells_captured_buckets_from_missing_ones(model: Model) -> None:
    verify, features = Verified(last=1), len(model.spec.sparse_features)
    with bench(model, Scripted(model.spec), rows=ROWS, captured=(8,), verify=verify) as local:
        told: list[list[object]] = []
        for _ in range(2):
            local.peer.send_frames(METADATA)
            local.turns(1)
            (reply,) = local.replies()
            assert isinstance(reply, MetadataReply)
            told.append([reply.meta["buckets"], reply.meta["missing_buckets"]])
            local.server.run(verify.stop)
    one, two, eight = ([rows, rows * features] for rows in ROWS)
    assert told == [[[eight], [one, two]], [[two, eight], [one]]]


def wrong(bucket: Bucket) -> None:
    raise Failure(f"bucket {bucket.rows} is wrong")


def test_bucket_that_scores_wrongly_ends_the_server_before_it_serves(model: Model) -> None:
    launcher = Scripted(model.spec)
    with bench(model, launcher, rows=ROWS, captured=(8,), mode=Mode.BATCH, verify=wrong) as local:
        numbers = local.send(one_hot(model, 1))
        with pytest.raises(Failure, match="bucket 1 is wrong"):
            local.server.run(StopSignals())
        assert local.answered() == numbers
        assert local.server.door.draining


def test_fault_in_a_capture_refuses_what_arrived_meanwhile(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Scripted(model.spec)
    with bench(model, launcher, rows=ROWS, captured=(8,)) as local:

        def fail(bucket: Bucket) -> None:
            local.send(one_hot(model, 1))
            raise DeviceFault("out of memory")

        monkeypatch.setattr(launcher, "capture", fail)
        with pytest.raises(DeviceFault, match="out of memory"):
            local.server.run(StopSignals())
        assert statuses(local.replies()) == {1: Status.DRAINING}
    assert launcher.calls == []

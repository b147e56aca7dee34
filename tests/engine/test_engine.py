"""An engine has slots for what it captured, fills the emptiest lane, and frees a slot when its scores were read."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from narsil_graph.engine.arena import Arena
from narsil_graph.engine.engine import Captured, Engine, Flight
from narsil_graph.engine.launcher import Footprint, Launcher, Slot
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.messages import InferRequest
from tests.engine.tiny import one_hot

LADDER = BucketLadder.from_rows((1, 4, 16), ids_per_row=2)
ONE, FOUR, SIXTEEN = LADDER.buckets
KIB = 1024


def rows_of(count: int) -> InferRequest:
    return one_hot(np.ones((count, 1), np.float32), np.arange(2 * count, dtype=np.int32).reshape(count, 2))


@dataclass
class Recorder(Launcher):
    """Notes what it is asked, is ready at the third question, and grows by a KiB a row of the largest capture."""

    slots_per_lane: int = 1
    lanes: int = 1
    calls: list[str] = field(default_factory=list[str])
    polls: int = 0
    device_bytes: int = 0

    def prepare(self, buckets: object) -> None:
        self.calls.append(f"prepare {buckets == LADDER.buckets}")

    def capture(self, bucket: Bucket) -> tuple[Slot, ...]:
        self.calls.append(f"capture {bucket.rows}")
        self.device_bytes = max(self.device_bytes, bucket.rows * KIB)
        return tuple(self.slot(bucket, lane) for lane in range(self.lanes) for _ in range(self.slots_per_lane))

    def slot(self, bucket: Bucket, lane: int) -> Slot:
        arena = Arena(bucket, dense_width=1, id_bases=np.zeros(2, np.int32), lead=0)
        return Slot(arena, lambda: None, np.full(bucket.rows, bucket.rows, np.float32), "none", lane=lane)

    def launch(self, slot: Slot) -> None:
        self.calls.append(f"launch {slot.arena.rows} of {slot.arena.bucket.rows}")

    def ready(self, slot: Slot) -> bool:
        self.polls += 1
        return self.polls == 3

    def wait(self, slot: Slot) -> None:
        self.calls.append("wait")

    def footprint(self) -> Footprint:
        return Footprint(device_bytes=self.device_bytes)


def captured(launcher: Recorder) -> Engine:
    engine = Engine(launcher, LADDER)
    engine.capture_all(lambda bucket, captured: None)
    launcher.calls.clear()
    return engine


def test_every_bucket_is_prepared_then_captured_largest_first() -> None:
    launcher, told = Recorder(), list[tuple[Bucket, Captured]]()
    engine = Engine(launcher, LADDER)
    engine.capture_all(lambda bucket, captured: told.append((bucket, captured)))
    assert launcher.calls == ["prepare True", "capture 16", "capture 4", "capture 1"]
    assert told == [(bucket, engine.captured[bucket]) for bucket in (SIXTEEN, FOUR, ONE)]


def test_capture_tells_what_it_cost() -> None:
    engine = Engine(Recorder(), LADDER)
    assert [engine.capture(bucket).device_bytes for bucket in (FOUR, SIXTEEN, ONE)] == [4 * KIB, 12 * KIB, 0]
    assert all(each.seconds > 0 for each in engine.captured.values())


def test_captured_ladder_grows_with_each_capture() -> None:
    engine = Engine(Recorder(), LADDER)
    assert engine.room == 0
    for bucket, want in ((SIXTEEN, (SIXTEEN,)), (ONE, (ONE, SIXTEEN)), (FOUR, (ONE, FOUR, SIXTEEN))):
        engine.capture(bucket)
        assert engine.captured_ladder.buckets == want


def test_run_fills_launches_once_waits_and_frees_the_slot() -> None:
    launcher = Recorder()
    engine = captured(launcher)
    request = rows_of(3)
    launched = engine.run(FOUR, [(request, 0, 2), (request, 2, 3)])
    assert launcher.calls == ["launch 3 of 4", "wait"]
    assert launched.scores.tolist() == [4, 4, 4, 4]
    assert engine.captured[FOUR].slots[0].arena.values.tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    assert launched.fill_ns > 0
    assert launched.launch_ns > 0
    assert engine.idle and engine.room


def test_submit_neither_waits_nor_polls() -> None:
    launcher = Recorder()
    engine = captured(launcher)
    flight = engine.submit(ONE, [(rows_of(1), 0, 1)])
    assert launcher.calls == ["launch 1 of 1"] and launcher.polls == 0
    assert [engine.landed(flight) for _ in range(3)] == [False, False, True]
    assert engine.read(flight).scores.tolist() == [1]


def fly(engine: Engine, *buckets: Bucket) -> list[Flight]:
    return [engine.submit(bucket, [(rows_of(1), 0, 1)]) for bucket in buckets]


def test_lanes_are_filled_in_turn_by_batches_of_any_buckets() -> None:
    engine = captured(Recorder(lanes=2, slots_per_lane=2))
    flights = fly(engine, ONE, ONE, FOUR, ONE)
    assert [flight.slot.lane for flight in flights] == [0, 1, 0, 1]
    assert len({id(flight.slot) for flight in flights}) == 4


def test_room_ends_with_the_last_slot_and_returns_with_a_release() -> None:
    engine = captured(Recorder(lanes=2, slots_per_lane=2))
    flights = fly(engine, ONE, ONE, ONE)
    assert engine.room
    flights += fly(engine, ONE)
    assert not engine.room and not engine.idle
    engine.release(flights[1])
    assert engine.room
    (again,) = fly(engine, ONE)
    # The emptiest lane's freed slot.
    assert again.slot is flights[1].slot
    for flight in (flights[0], *flights[2:], again):
        engine.release(flight)
    assert engine.idle


def test_capture_between_launches_adds_slots_but_no_room() -> None:
    engine = Engine(Recorder(slots_per_lane=2), LADDER)
    engine.capture(SIXTEEN)
    assert engine.room == 2
    engine.capture(ONE)
    assert engine.room == 2
    fly(engine, ONE, SIXTEEN)
    assert not engine.room


@pytest.mark.parametrize("lanes", [1, 3])
def test_every_lane_has_a_slot_of_every_bucket_for_each_launch_it_takes(lanes: int) -> None:
    engine = captured(Recorder(lanes=lanes, slots_per_lane=2))
    for bucket in LADDER.buckets:
        flights = fly(engine, *[bucket] * (2 * lanes))
        assert not engine.room
        for flight in flights:
            engine.release(flight)

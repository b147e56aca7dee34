"""An accelerator whose launches land, or fail, when the test says so, and a server around it in this thread."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import zmq
from numpy.typing import NDArray

from narsil_graph.engine.arena import Arena
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.launcher import Launcher, Slot
from narsil_graph.limits import limits_of
from narsil_graph.memory_watch import MemoryWatch
from narsil_graph.metrics import Counters
from narsil_graph.model.spec import ModelSpec
from narsil_graph.model.weights import Model
from narsil_graph.schedule import Schedule
from narsil_graph.server import Server
from narsil_graph.stop_signals import StopSignals
from narsil_graph.variants import Variant
from narsil_transport.batcher import Batcher, Mode
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.peers import WINDOW
from narsil_transport.router import Router
from narsil_transport.security import Security
from narsil_transport.status import Status
from narsil_transport.wire import (
    ControlRequest,
    InferRequest,
    Operation,
    RefusalReply,
    ScoresReply,
    encode_request,
)
from tests.serving.peers import Peer, Reply

# More polls than any test makes.
NEVER = 1 << 60
HEALTH = encode_request(ControlRequest(999, Operation.HEALTH))
METADATA = encode_request(ControlRequest(998, Operation.METADATA))


class Scripted(Launcher):
    """A row's score is its first dense value, read from the arena when the scores are, as a device would.

    The n-th launch has landed at its ``polls[n]``-th poll (the last of ``polls`` holds for all that follow). The
    ``fault`` is raised at the verb's call of that number, counted from 1. ``calls`` are the verbs called.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        lanes: int = 1,
        slots_per_lane: int = 1,
        polls: Sequence[int] = (1,),
        fault: tuple[str, int, Exception] | None = None,
    ) -> None:
        self.slots_per_lane = slots_per_lane
        self.calls: list[str] = []
        self._spec = spec
        self._lanes = lanes
        self._polls = polls
        self._launches = 0
        self._left: dict[int, int] = {}
        self._fault = fault

    def capture(self, bucket: Bucket) -> tuple[Slot, ...]:
        self._called("capture")
        return tuple(self._slot(bucket, lane) for lane in range(self._lanes) for _ in range(self.slots_per_lane))

    def _slot(self, bucket: Bucket, lane: int) -> Slot:
        bases = np.zeros(len(self._spec.sparse_features), np.int32)
        arena = Arena(bucket, dense_width=len(self._spec.dense_features), id_bases=bases, lead=0)
        return Slot(arena, lambda: None, np.zeros(bucket.rows, np.float32), "scripted", lane=lane)

    def launch(self, slot: Slot) -> None:
        self._called("launch")
        self._left[id(slot)] = self._polls[min(self._launches, len(self._polls) - 1)]
        self._launches += 1

    def ready(self, slot: Slot) -> bool:
        self._called("ready")
        self._left[id(slot)] -= 1
        return self._left[id(slot)] <= 0

    def wait(self, slot: Slot) -> None:
        while not self.ready(slot):
            pass

    def scores(self, slot: Slot) -> NDArray[np.float32]:
        self._called("scores")
        slot.scores[:] = slot.arena.dense[:, 0]
        return slot.scores

    def land(self) -> None:
        """Everything in flight has landed at its next poll."""
        self._left = dict.fromkeys(self._left, 1)

    def _called(self, verb: str) -> None:
        self.calls.append(verb)
        if self._fault is not None and (verb, self.calls.count(verb)) == self._fault[:2]:
            raise self._fault[2]


class Clock:
    """Stands still but when it is told to move: what the server and the engine take for the time."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    perf_counter_ns = monotonic_ns

    def perf_counter(self) -> float:
        return self.now_ns / 1e9


@dataclass
class Bench:
    """A server in this thread, and a peer whose messages it has the moment they are sent."""

    server: Server
    peer: Peer
    launcher: Scripted
    context: zmq.SyncContext

    def send(self, *requests: InferRequest) -> list[int]:
        return [self.peer.send(request) for request in requests]

    def replies(self) -> list[Reply]:
        """What has been answered so far, in that order."""
        got: list[Reply] = []
        while self.peer.socket.poll(0):
            got.append(self.peer.receive())
        return got

    def answered(self) -> list[int]:
        """The numbers of the requests that have been scored by now."""
        got = self.replies()
        assert all(isinstance(reply, ScoresReply) for reply in got), got
        return [reply.request_id for reply in got]

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.server.step(0)


@contextmanager
def bench(
    model: Model,
    launcher: Scripted,
    *,
    rows: tuple[int, ...] = (8,),
    captured: tuple[int, ...] | None = None,
    mode: Mode = Mode.WORKER,
    receive_max: int = 64,
    window: int = WINDOW,
    security: Security | None = None,
    memory: MemoryWatch | None = None,
    verify: Callable[[Bucket], object] = lambda bucket: None,
    schedule: Callable[[Engine], Schedule] | None = None,
    others: Callable[[Router, Counters], Sequence[Variant]] = lambda router, counters: (),
) -> Generator[Bench]:
    """Buckets of these ``rows``, of which those of ``captured`` rows are captured (all, if it is None)."""
    engine = Engine(launcher, BucketLadder.from_rows(rows, ids_per_row=len(model.spec.sparse_features)))
    for bucket in engine.ladder.buckets:
        if captured is None or bucket.rows in captured:
            engine.capture(bucket)
    launcher.calls.clear()
    with (
        zmq.Context() as context,
        Router(
            bind="inproc://server",
            frames_bytes_max=1 << 20,
            receive_max=receive_max,
            window=window,
            security=security,
            context=context,
        ) as router,
        Peer("inproc://server", context=context) as peer,
    ):
        counters = Counters(eager=launcher.eager)
        server = Server(
            router=router,
            engine=engine,
            schedule=scheduled(engine, mode=mode) if schedule is None else schedule(engine),
            limits=limits_of(model.spec, rows_max=64, ids_per_row_max=engine.ladder.ids_max),
            model=model,
            counters=counters,
            verify=verify,
            memory=memory,
            others=others(router, counters),
        )
        yield Bench(server, peer, launcher, context)


def scheduled(engine: Engine, *, mode: Mode) -> Schedule:
    """A batcher that takes a launch for one of a microsecond a row, so that no deadline of a test is near."""
    cost = CostModel({bucket: LaunchCost(1000 * bucket.rows, 1000 * bucket.rows) for bucket in engine.ladder.buckets})
    batcher = Batcher(ladder=engine.captured_ladder, cost=cost, mode=mode, queue_rows_max=1 << 16)
    return Schedule(batcher, cost, lanes=engine.lanes)


def stopped() -> StopSignals:
    """A stop that has been asked for: the server only drains."""
    stop = StopSignals()
    stop.requested = True
    return stop


def statuses(replies: Iterable[Reply]) -> dict[int, Status]:
    """What each request was told; no request was told twice."""
    got = [*replies]
    told = {reply.request_id: reply.refusal.status if isinstance(reply, RefusalReply) else Status.OK for reply in got}
    assert len(told) == len(got)
    return told

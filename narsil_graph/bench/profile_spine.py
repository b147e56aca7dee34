"""A server's spine and its client in one thread, so that every microsecond of a round trip has a stage."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from uuid import uuid4

from narsil_client.dealer import Dealer, connect
from narsil_graph.bench.requests import RequestPool
from narsil_graph.engine.engine import Engine
from narsil_graph.errors import Failure
from narsil_graph.limits import limits_of
from narsil_graph.metrics import Counters
from narsil_graph.model.weights import Model
from narsil_graph.schedule import Schedule
from narsil_graph.server import Server
from narsil_graph.serving import frame_bytes_max
from narsil_transport.admission import Admitted
from narsil_transport.batcher import Batch, Batcher, Mode
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.messages import InferRequest, ScoresReply
from narsil_transport.router import Route, Router
from narsil_transport.status import Refusal
from narsil_transport.tensors import Frame
from narsil_transport.wire import decode_reply, encode_request

ENCODE, WIRE_THERE, ENTER, CHOOSE = "encode", "wire there", "receive, decode, admit", "choose a batch"
# What the reply's stage times part: the launch's way from the queue to the frames of its reply.
SCORE, SCORED = "score", ("fill", "launch", "scatter", "slots, lanes, encode")
SEND, WIRE_BACK, DECODE = "send", "wire back", "decode"
STAGES = (ENCODE, WIRE_THERE, ENTER, CHOOSE, *SCORED, SEND, WIRE_BACK, DECODE)
ANSWER_NS = 10_000_000_000
WAIT_MS = 100
IN_FLIGHT_MAX = 16
Scope = Callable[[str], AbstractContextManager[object]]
Times = dict[str, float]


class Clock:
    """Parts a round trip into stages that follow each other, each inside a scope of its name."""

    def __init__(self) -> None:
        self.answered = False
        self._spent_ns: dict[str, int] = {}

    def start(self, scope: Scope) -> None:
        """A round trip begins, with its first stage."""
        self.answered = False
        self._scope = scope
        self._spent_ns = {}
        self._open(ENCODE, time.perf_counter_ns())

    def enter(self, stage: str) -> None:
        """The stage that was open has ended, and this one begins."""
        now_ns = self._end()
        self._open(stage, now_ns)

    def stop(self) -> dict[str, float]:
        """Microseconds by stage."""
        self._end()
        return {stage: spent_ns / 1e3 for stage, spent_ns in self._spent_ns.items()}

    def _open(self, stage: str, now_ns: int) -> None:
        self._stage, self._begin_ns = stage, now_ns
        self._opened = self._scope(stage)
        self._opened.__enter__()

    def _end(self) -> int:
        self._opened.__exit__(None, None, None)
        now_ns = time.perf_counter_ns()
        self._spent_ns[self._stage] = self._spent_ns.get(self._stage, 0) + now_ns - self._begin_ns
        return now_ns


class ClockedRouter(Router):
    """Tells ``clock`` when a message has come and when a reply leaves."""

    clock: Clock

    def wait(self, timeout_ms: int) -> bool:
        arrived = super().wait(timeout_ms)
        if arrived:
            self.clock.enter(ENTER)
        return arrived

    def send(self, route: Route, frames: Sequence[Frame]) -> bool:
        self.clock.enter(SEND)
        sent = super().send(route, frames)
        self.clock.enter(WIRE_BACK)
        self.clock.answered = True
        return sent


class ClockedSchedule(Schedule):
    """Tells ``clock`` when a request has been queued."""

    clock: Clock

    def enter(self, admitted: Admitted, now_ns: int) -> Refusal | None:
        refusal = super().enter(admitted, now_ns)
        self.clock.enter(CHOOSE)
        return refusal


class ClockedBatcher(Batcher):
    """Tells ``clock`` when a batch has been chosen."""

    clock: Clock

    def take(self, now_ns: int) -> Batch | None:
        batch = super().take(now_ns)
        if batch is not None:
            self.clock.enter(SCORE)
        return batch


class Spine:
    """Sends one request at a time to ``server`` through ``dealer`` and steps it until it has answered."""

    def __init__(self, server: Server, clock: Clock, dealer: Dealer, pool: RequestPool) -> None:
        self._server = server
        self._clock = clock
        self._dealer = dealer
        self._pool = pool
        self._number = 0

    def ask(self, scope: Scope) -> Times:
        """Microseconds of the next request in each of STAGES. Failure where it is not scored."""
        server, clock, rows = self._server, self._clock, self._pool[self._number]
        self._number += 1
        until_ns = time.monotonic_ns() + ANSWER_NS
        clock.start(scope)
        frames = encode_request(InferRequest(self._number, "", None, None, rows.dense, rows.ids, None, None))
        clock.enter(WIRE_THERE)
        sent = False
        while not clock.answered and time.monotonic_ns() < until_ns:
            sent = sent or self._dealer.send(frames)
            server.step(WAIT_MS if sent else 0)
        came = self._dealer.receive(WAIT_MS)
        clock.enter(DECODE)
        reply = None if came is None else decode_reply(came)
        spent_us = clock.stop()
        if not isinstance(reply, ScoresReply):
            raise Failure(f"the server in this process answered a request of {len(rows)} rows by {reply}")
        times, score_us = reply.times, spent_us.pop(SCORE)
        parts_us = times.fill_us, times.launch_us, times.read_us
        spent_us |= zip(SCORED, (*parts_us, score_us - sum(parts_us)), strict=True)
        return {stage: spent_us[stage] for stage in STAGES}


@contextmanager
def spine(model: Model, engine: Engine, *, rows: int, seed: int) -> Generator[Spine]:
    """A server of ``engine``, which has captured all of its ladder, for requests of ``rows`` rows, and its client."""
    limits = limits_of(model.spec, rows_max=rows, ids_per_row_max=engine.ladder.ids_max)
    # Of one request at a time, for which costs decide nothing.
    cost = CostModel({bucket: LaunchCost(1, 1) for bucket in engine.ladder.buckets})
    batcher = ClockedBatcher(ladder=engine.ladder, cost=cost, mode=Mode.BATCH, queue_rows_max=rows)
    schedule = ClockedSchedule(batcher, cost, lanes=engine.lanes)
    # Abstract, so that there is no file; unlike a process id, the name is no other container's.
    bind = f"ipc://@narsil-graph-{uuid4().hex}"
    router = ClockedRouter(bind=bind, frames_bytes_max=frame_bytes_max(limits, engine.ladder), receive_max=1)
    batcher.clock = schedule.clock = router.clock = clock = Clock()
    with router:
        server = Server(
            router=router,
            engine=engine,
            schedule=schedule,
            limits=limits,
            model=model,
            counters=Counters(eager=engine.launcher.eager),
            verify=lambda bucket: None,
        )
        # More than one: libzmq's thread may still hold the request before when the next is sent.
        dealer = connect([bind], inflight_max=IN_FLIGHT_MAX, context=None)
        try:
            dealer.wait_writable(WAIT_MS)
            yield Spine(server, clock, dealer, RequestPool.constant(model.spec, rows, seed))
        finally:
            dealer.close()

"""The spine: one request's way from the socket to its scores, and the life of the process around it."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from narsil_graph.engine.engine import Engine, Flight, Launched
from narsil_graph.engine.launcher import DeviceFault
from narsil_graph.engine.scatter import Scatter
from narsil_graph.lazy_capture import LazyCapture
from narsil_graph.metrics import Counters
from narsil_graph.model.weights import Model
from narsil_graph.stop_signals import StopSignals
from narsil_transport.admission import Admitted, ModelLimits, admit
from narsil_transport.batcher import Batch, Batcher
from narsil_transport.buckets import Bucket
from narsil_transport.messages import ControlRequest, HealthReply, HealthState, MetadataReply, Operation, Refused
from narsil_transport.router import Message, Route, Router
from narsil_transport.status import Refusal, Status
from narsil_transport.wire import (
    InferRequest,
    StageTimes,
    decode_request,
    encode_health,
    encode_metadata,
    encode_refusal,
    encode_scores,
)

# How long an idle server sleeps before it looks whether it was told to stop.
IDLE_WAIT_MS = 100
# With buckets left to capture, a silence of this length is the time to do it.
CAPTURE_WAIT_MS = 5
# A replay takes some tens of microseconds: what has not landed after this is no longer worth a core.
SPIN_NS = 2_000_000
# The shortest wait of a poll, and so what a launch beyond the spin may wait to be seen.
LANDING_WAIT_MS = 1
# No batch takes a thousandth of this: a launch that does will never land.
LAUNCH_TIMEOUT_NS = 10_000_000_000
# Refusals while draining must not keep a busy server alive: after this many rounds the socket is closed.
DRAIN_ROUNDS_MAX = 100


@dataclass(slots=True, eq=False)
class InFlight:
    """A launched batch, and when the loop took it from the queue."""

    batch: Batch
    flight: Flight
    begin_ns: int


class Server:
    """Owns nothing that it did not get: a bound router, an engine, an empty batcher, the served limits, the counters.

    The engine has captured its largest bucket at least, and the batcher has the ladder of those that are captured.
    While nothing else is to do, the server captures the others; ``verify`` raises a Failure if one scores wrongly.
    """

    def __init__(
        self,
        *,
        router: Router,
        engine: Engine,
        batcher: Batcher,
        limits: ModelLimits,
        model: Model,
        counters: Counters,
        verify: Callable[[Bucket], object],
    ) -> None:
        self.router = router
        self.engine = engine
        self.batcher = batcher
        self.limits = limits
        self.model = model
        self.version = model.version
        self.counters = counters
        self.lazy = LazyCapture(engine, verify)
        self.scatter = Scatter()
        self.in_flight: deque[InFlight] = deque()
        self.last_launch_ns = 0
        self.draining = False
        self.started_ns = time.monotonic_ns()

    def run(self, stop: StopSignals) -> None:
        """Serve until ``stop``, then answer what was accepted, refuse what was not, and return.

        Raises what the engine raised, after everyone who waited was told.
        """
        missing = self.lazy.missing
        while not stop.requested:
            busy = self.step(CAPTURE_WAIT_MS if missing else IDLE_WAIT_MS)
            if missing and not (busy or stop.requested):
                self.capture_next()
        self.drain()

    def step(self, idle_wait_ms: int) -> bool:
        """Take what has arrived, launch what the engine has room for, answer what has landed.

        False if there was nothing to do, for at most ``idle_wait_ms``.
        """
        in_flight, batcher = self.in_flight, self.batcher
        queued, flights = batcher.pending_requests, len(in_flight)
        wait_ms = patience_ms(
            queued=queued,
            in_flight=flights,
            since_launch_ns=time.monotonic_ns() - self.last_launch_ns,
            idle_ms=idle_wait_ms,
        )
        arrived = self.router.receive(wait_ms)
        for message in arrived:
            self.accept(message)
        now_ns = time.monotonic_ns()
        for late in batcher.expired(now_ns):
            self.refuse(late.route, late.request.request_id, Refusal(Status.DEADLINE_EXCEEDED, "expired in the queue"))
        while self.engine.room and (batch := batcher.take(now_ns)) is not None:
            self.launch(batch)
        # A copy: what has landed leaves the queue. In the order of launch, though lanes may overtake each other.
        for flying in tuple(in_flight):
            self.land(flying)
        return bool(arrived or queued or flights)

    def accept(self, message: Message) -> None:
        """Decode, admit and queue a message; whatever it is, it gets exactly one reply, now or after its batch."""
        now_ns = time.monotonic_ns()
        request = decode_request(message.header, message.tensors)
        if isinstance(request, InferRequest):
            refusal = self.enqueue(request, message.route, now_ns)
            if refusal is not None:
                self.refuse(message.route, request.request_id, refusal)
        elif isinstance(request, Refused):
            self.refuse(message.route, request.request_id, request.refusal)
        else:
            self.router.send(message.route, [self.describe(request, now_ns)])

    def enqueue(self, request: InferRequest, route: Route, now_ns: int) -> Refusal | None:
        if self.draining:
            return Refusal(Status.DRAINING, "the server is stopping")
        outcome = admit(request, limits=self.limits, now_ns=now_ns, route=route)
        return self.batcher.add(outcome) if isinstance(outcome, Admitted) else outcome

    def launch(self, batch: Batch) -> None:
        """Fill a free slot and launch it."""
        self.last_launch_ns = begin_ns = time.monotonic_ns()
        try:
            flight = self.engine.submit(
                batch.bucket, [(piece.admitted.request, piece.begin, piece.end) for piece in batch.pieces]
            )
        except Exception:
            self.fail(batch)
            raise
        self.in_flight.append(InFlight(batch, flight, begin_ns))
        if self.lazy.missing:
            self.lazy.note(batch)

    def land(self, flying: InFlight) -> None:
        """Answer a launch that has finished; its slot is free once the replies hold its scores."""
        flight = flying.flight
        try:
            if not self.engine.landed(flight):
                if time.monotonic_ns() - flying.begin_ns > LAUNCH_TIMEOUT_NS:
                    raise DeviceFault(f"a launch has not finished in {LAUNCH_TIMEOUT_NS / 1e9:.0f} s")
                return
            launched = self.engine.read(flight)
        except Exception:
            self.fail()
            raise
        self.in_flight.remove(flying)
        self.answer(flying, launched)
        self.engine.release(flight)

    def answer(self, flying: InFlight, launched: Launched) -> None:
        """Scatter, reply."""
        batch = flying.batch
        self.counters.launched(batch.bucket, batch.rows)
        landed_ns = time.monotonic_ns()
        for finished in self.scatter.split(batch, launched.scores):
            times = stage_times(finished.admitted, launched, flying.begin_ns, landed_ns)
            self.counters.answered(Status.OK)
            request = finished.admitted.request
            frames = encode_scores(
                request.request_id,
                self.version,
                batch.bucket.rows,
                batch.rows,
                times,
                request.traceparent,
                finished.scores,
            )
            self.send(finished.admitted.route, frames)

    def capture_next(self) -> None:
        """Capture one more bucket, and use it from the next batch on."""
        try:
            self.batcher.use(self.lazy.capture_next())
        except Exception:
            self.fail()
            raise

    def fail(self, *launching: Batch) -> None:
        """The engine broke: everyone who waits is told so before the process ends, and the engine is left alone."""
        lost = [*(flying.batch for flying in self.in_flight), *launching]
        self.in_flight.clear()
        while (batch := self.batcher.take(time.monotonic_ns())) is not None:
            lost.append(batch)
        # A request that was split is in several batches.
        waiting = {id(piece.admitted): piece.admitted for batch in lost for piece in batch.pieces}
        refusal = Refusal(Status.UNAVAILABLE, "the engine failed; the server is stopping")
        for admitted in waiting.values():
            self.refuse(admitted.route, admitted.request.request_id, refusal)
        self.drain()

    def refuse(self, route: object, request_id: int, refusal: Refusal) -> None:
        self.counters.answered(refusal.status)
        self.send(route, (encode_refusal(request_id, self.version, refusal),))

    def send(self, route: object, frames: tuple[bytes, ...]) -> None:
        assert isinstance(route, Route)
        self.router.send(route, frames)

    def describe(self, request: ControlRequest, now_ns: int) -> bytes:
        """The answer to a HEALTH or METADATA question."""
        if request.operation is Operation.HEALTH:
            state = HealthState.DRAINING if self.draining else HealthState.READY
            uptime_s = (now_ns - self.started_ns) / 1e9
            inflight = self.unanswered()
            return encode_health(HealthReply(request.request_id, self.version, state, inflight, uptime_s))
        meta = {
            "spec": self.model.spec.to_dict(),
            "rows_max": self.limits.rows_max,
            "buckets": [[bucket.rows, bucket.ids] for bucket in self.engine.captured_ladder.buckets],
            "missing_buckets": [[bucket.rows, bucket.ids] for bucket in self.lazy.missing],
            "counters": self.counters.to_dict(dropped_replies=self.router.dropped_replies),
        }
        return encode_metadata(MetadataReply(request.request_id, self.version, meta))

    def unanswered(self) -> int:
        """Requests that were accepted and wait for their reply, queued or in flight."""
        in_flight = {id(piece.admitted) for flying in self.in_flight for piece in flying.batch.pieces}
        # A request that is being cut is in both places.
        return self.batcher.pending_requests + len(in_flight - {id(self.batcher.cut)})

    def drain(self) -> None:
        """Answer every accepted request and refuse what still arrives."""
        self.draining = True
        for _ in range(DRAIN_ROUNDS_MAX):
            while self.in_flight or self.batcher.pending_requests:
                self.step(0)
            arrived = self.router.receive(0)
            for message in arrived:
                self.accept(message)
            if not arrived:
                return


def patience_ms(*, queued: int, in_flight: int, since_launch_ns: int, idle_ms: int) -> int:
    """How long the loop may sleep over the socket: ``idle_ms`` only where no request waits for anything else."""
    if in_flight:
        return 0 if since_launch_ns < SPIN_NS else LANDING_WAIT_MS
    return 0 if queued else idle_ms


def stage_times(admitted: Admitted, launched: Launched, begin_ns: int, landed_ns: int) -> StageTimes:
    """Where a reply's time went, which began with its admission; a split request's stages are those of its last launch.

    The launch stage ends when the loop has read the scores, and so holds its wait for other batches to be answered.
    """
    now_ns = time.monotonic_ns()
    return StageTimes(
        (begin_ns - admitted.admitted_ns) / 1e3,
        launched.fill_ns / 1e3,
        launched.launch_ns / 1e3,
        (now_ns - landed_ns) / 1e3,
        (now_ns - admitted.admitted_ns) / 1e3,
    )

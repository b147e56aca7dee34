"""The spine: one request's way from the socket to its scores, and the life of the process around it."""

import time
from collections import deque
from collections.abc import Callable

from narsil_graph.control import describe
from narsil_graph.engine.engine import Engine, Launched
from narsil_graph.engine.launcher import DeviceFault
from narsil_graph.engine.scatter import Scatter
from narsil_graph.in_flight import InFlight, stage_times
from narsil_graph.lazy_capture import LazyCapture
from narsil_graph.metrics import Counters
from narsil_graph.model.weights import Model
from narsil_graph.pace import CAPTURE_WAIT_MS, IDLE_WAIT_MS, LAUNCH_TIMEOUT_NS, patience_ms
from narsil_graph.schedule import Schedule
from narsil_graph.stop_signals import StopSignals
from narsil_transport.admission import Admitted, ModelLimits, admit
from narsil_transport.batcher import Batch, Settings
from narsil_transport.buckets import Bucket
from narsil_transport.messages import CancelRequest, Refused
from narsil_transport.router import Message, Route, Router
from narsil_transport.status import Refusal, Status
from narsil_transport.wire import (
    InferRequest,
    decode_request,
    encode_refusal,
    encode_scores,
)

# Refusals while draining must not keep a busy server alive: after this many rounds the socket is closed.
DRAIN_ROUNDS_MAX = 100


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
        schedule: Schedule,
        limits: ModelLimits,
        model: Model,
        counters: Counters,
        verify: Callable[[Bucket], object],
    ) -> None:
        self.router = router
        self.engine = engine
        self.schedule = schedule
        self.batcher = schedule.batcher
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
        lazy = self.lazy
        while not stop.requested:
            busy = self.step(CAPTURE_WAIT_MS if lazy.missing else IDLE_WAIT_MS)
            if not (busy or stop.requested):
                self.use_the_silence()
        self.drain()

    def step(self, idle_wait_ms: int) -> bool:
        """Take what has arrived, launch what the engine has room for, answer what has landed.

        False if there was nothing to do, for at most ``idle_wait_ms``.
        """
        in_flight, batcher = self.in_flight, self.batcher
        queued, flights = batcher.pending_requests, len(in_flight)
        arrived = self.router.wait(self.wait_ms(queued, flights, idle_wait_ms))
        now_ns = self.take_in() if arrived else time.monotonic_ns()
        for late in batcher.expired(now_ns):
            self.drop(late, Refusal(Status.DEADLINE_EXCEEDED, "expired in the queue"))
        while self.engine.room and (batch := batcher.take(now_ns)) is not None:
            self.launch(batch)
        # A copy: what has landed leaves the queue. In the order of launch, though lanes may overtake each other.
        for flying in tuple(in_flight):
            self.land(flying)
        self.schedule.adjust(now_ns)
        return arrived or bool(queued or flights)

    def take_in(self) -> int:
        """Receive and accept what has come. The time afterwards, ns; what a request took is learned."""
        begin_ns = time.monotonic_ns()
        messages = self.router.receive()
        for message in messages:
            self.accept(message)
        now_ns = time.monotonic_ns()
        self.schedule.cost.observe_requests(len(messages), now_ns - begin_ns)
        return now_ns

    def wait_ms(self, queued: int, flights: int, idle_ms: int) -> int:
        """How long the next look at the socket may wait."""
        if not (queued or flights):
            return idle_ms
        now_ns = time.monotonic_ns()
        wake_ns = self.batcher.wake_ns(now_ns)
        return patience_ms(
            queued=queued,
            in_flight=flights,
            since_launch_ns=now_ns - self.last_launch_ns,
            linger_ns=0 if wake_ns is None else max(wake_ns - now_ns, 0),
            idle_ms=idle_ms,
        )

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
        elif isinstance(request, CancelRequest):
            self.cancel(message.route.identity, request.request_id)
        else:
            self.router.send(message.route, [describe(self, request, now_ns)])

    def enqueue(self, request: InferRequest, route: Route, now_ns: int) -> Refusal | None:
        if self.draining:
            return Refusal(Status.DRAINING, "the server is stopping")
        schedule = self.schedule
        outcome = admit(
            request,
            limits=self.limits,
            now_ns=now_ns,
            route=route,
            default_deadline_us=schedule.default_deadline_us,
        )
        return schedule.enter(outcome, now_ns) if isinstance(outcome, Admitted) else outcome

    def cancel(self, identity: bytes, request_id: int | None) -> None:
        """Free the queued rows of a peer's request, or of all its requests; each is told so, if the peer is there."""

        def given_up(queued: Admitted) -> bool:
            assert isinstance(queued.route, Route)
            return queued.route.identity == identity and request_id in (None, queued.request.request_id)

        for admitted in self.batcher.cancel(given_up):
            self.drop(admitted, Refusal(Status.CANCELLED, "cancelled by the client before it was launched"))

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
        alone = self.schedule.lanes.launched(batch.bucket, flight.slot.lane, begin_ns)
        self.in_flight.append(InFlight(batch, flight, begin_ns, alone))
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
        taken_ns, lane = launched.fill_ns + launched.launch_ns, flying.flight.slot.lane
        self.schedule.lanes.landed(batch.bucket, lane, taken_ns, landed_ns, alone=flying.alone)
        finished_all = self.scatter.split(batch, launched.scores)
        for finished in finished_all:
            times = stage_times(finished.admitted, launched, flying.begin_ns, landed_ns)
            self.counters.answered(Status.OK)
            self.schedule.ended(finished.admitted, Status.OK, landed_ns)
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
        self.schedule.cost.observe_replies(len(finished_all), time.monotonic_ns() - landed_ns)

    def use_the_silence(self) -> None:
        """Capture one missing bucket, or take up a better ladder and begin to capture that."""
        replanner = self.schedule.replanner
        try:
            if self.lazy.missing:
                ladder = self.lazy.capture_next()
                if ladder is not None:
                    self.batcher.use(ladder)
            elif replanner is not None:
                better = replanner.propose(time.monotonic_ns(), self.schedule.cost, self.engine.ladder)
                if better is not None and (ladder := self.lazy.pursue(better)) is not None:
                    self.batcher.use(ladder)
        except Exception:
            self.fail()
            raise

    def fail(self, *launching: Batch) -> None:
        """The engine broke: everyone who waits is told so before the process ends, and the engine is left alone."""
        self.batcher.tune(Settings())  # or take would let some linger
        lost = [*(flying.batch for flying in self.in_flight), *launching]
        self.in_flight.clear()
        queued = self.batcher.cancel(lambda admitted: True)
        # What cannot be cancelled: the rest of a request that was split.
        while (batch := self.batcher.take(time.monotonic_ns())) is not None:
            lost.append(batch)
        # A request that was split is in several batches.
        waiting = {id(piece.admitted): piece.admitted for batch in lost for piece in batch.pieces}
        waiting |= {id(admitted): admitted for admitted in queued}
        refusal = Refusal(Status.UNAVAILABLE, "the engine failed; the server is stopping")
        for admitted in waiting.values():
            self.drop(admitted, refusal)
        self.drain()

    def drop(self, admitted: Admitted, refusal: Refusal) -> None:
        """Tell an admitted request that it will not be scored."""
        self.schedule.ended(admitted, refusal.status, time.monotonic_ns())
        self.refuse(admitted.route, admitted.request.request_id, refusal)

    def refuse(self, route: object, request_id: int, refusal: Refusal) -> None:
        self.counters.answered(refusal.status)
        self.send(route, (encode_refusal(request_id, self.version, refusal),))

    def send(self, route: object, frames: tuple[bytes, ...]) -> None:
        assert isinstance(route, Route)
        if not self.router.send(route, frames) and self.batcher.pending_requests:
            # The peer has gone: nobody waits for what it has queued.
            self.cancel(route.identity, None)

    def unanswered(self) -> int:
        """Requests that were accepted and wait for their reply, queued or in flight."""
        in_flight = {id(piece.admitted) for flying in self.in_flight for piece in flying.batch.pieces}
        # A request that is being cut is in both places.
        return self.batcher.pending_requests + len(in_flight - {id(cut) for cut in self.batcher.cuts})

    def drain(self) -> None:
        """Answer every accepted request and refuse what still arrives."""
        self.draining = True
        self.batcher.tune(Settings())  # nothing more is worth waiting for
        for _ in range(DRAIN_ROUNDS_MAX):
            while self.in_flight or self.batcher.pending_requests:
                self.step(0)
            if not self.router.wait(0):
                return
            self.take_in()

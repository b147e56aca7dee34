"""The spine: one request's way from the socket to its scores, and the life of the process around it."""

import sys
import time
from collections import deque
from collections.abc import Callable

from narsil_graph.control import describe
from narsil_graph.door import Door
from narsil_graph.engine.engine import Engine, Launched
from narsil_graph.engine.launcher import DeviceFault
from narsil_graph.engine.scatter import Scatter
from narsil_graph.in_flight import InFlight, stage_times
from narsil_graph.lazy_capture import LazyCapture
from narsil_graph.memory_watch import LOOK_MS, MemoryWatch, Pressure
from narsil_graph.metrics import Counters
from narsil_graph.model.weights import Model
from narsil_graph.pace import CAPTURE_WAIT_MS, IDLE_WAIT_MS, LAUNCH_TIMEOUT_NS, TURN_NS, patience_ms
from narsil_graph.replies import Replies
from narsil_graph.schedule import Schedule
from narsil_graph.stop_signals import StopSignals
from narsil_transport.admission import ModelLimits
from narsil_transport.batcher import Batch, Settings
from narsil_transport.buckets import Bucket
from narsil_transport.router import Router
from narsil_transport.segments import Segments
from narsil_transport.status import Refusal, Status

# Refusals while draining must not keep a busy server alive: after this many rounds the socket is closed.
DRAIN_ROUNDS_MAX = 100
EXPIRED = Refusal(Status.DEADLINE_EXCEEDED, "expired in the queue")


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
        memory: MemoryWatch | None = None,
        segments: Segments | None = None,
    ) -> None:
        self.router = router
        self.engine = engine
        self.schedule = schedule
        self.batcher = schedule.batcher
        self.limits = limits
        self.model = model
        self.version = model.version
        self.counters = counters
        self.memory = memory
        self.segments = segments
        self.replies = Replies(router, schedule=schedule, counters=counters, version=model.version)
        self.door = Door(
            router=router,
            schedule=schedule,
            limits=limits,
            replies=self.replies,
            describe=lambda request, now_ns: describe(self, request, now_ns),
            segments=segments,
        )
        self.lazy = LazyCapture(engine, verify)
        self.scatter = Scatter()
        self.in_flight: deque[InFlight] = deque()
        self.last_launch_ns = 0
        self.started_ns = time.monotonic_ns()

    def run(self, stop: StopSignals) -> None:
        """Serve until ``stop``, then answer what was accepted, refuse what was not, and return.

        Raises what the engine raised, after everyone who waited was told.
        """
        while not stop.requested:
            if stop.reload:
                stop.reload = False
                self.reload_keys()
            busy = self.step(self.idle_wait_ms())
            if not (busy or stop.requested):
                self.use_the_silence()
        self.drain()

    def idle_wait_ms(self) -> int:
        """How long a silence may last before it is used, or before memory is looked at."""
        if self.lazy.missing or self.schedule.replanner is not None:
            return CAPTURE_WAIT_MS
        return IDLE_WAIT_MS if self.memory is None else LOOK_MS

    def step(self, idle_wait_ms: int) -> bool:
        """Take what has arrived, launch what the engine has room for, answer what has landed.

        False if there was nothing to do, for at most ``idle_wait_ms``.
        """
        in_flight, batcher = self.in_flight, self.batcher
        queued, flights = batcher.pending_requests, len(in_flight)
        arrived = self.router.wait(self.wait_ms(queued, flights, idle_wait_ms))
        now_ns = self.take_in() if arrived else time.monotonic_ns()
        if self.memory is not None:
            self.guard(self.memory.look(now_ns))
        if self.router.peers.gone:
            self.door.forget(self.router.peers.take_gone())
        for late in batcher.expired(now_ns):
            self.replies.dropped(late, EXPIRED)
        while self.engine.room and (batch := batcher.take(now_ns)) is not None:
            self.launch(batch)
        # A copy: what has landed leaves the queue. In the order of launch, though lanes may overtake each other.
        for flying in tuple(in_flight):
            self.land(flying)
        self.schedule.adjust(now_ns)
        return arrived or bool(queued or flights)

    def take_in(self) -> int:
        """Receive and accept what has come, for a while. The time afterwards, ns; what a request took is learned."""
        begin_ns = now_ns = time.monotonic_ns()
        count = 0
        for message in self.router.receive():
            self.door.accept(message, now_ns)
            count += 1
            now_ns = time.monotonic_ns()
            if now_ns - begin_ns > TURN_NS:
                break
        self.schedule.cost.observe_requests(count, now_ns - begin_ns)
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

    def guard(self, pressure: Pressure) -> None:
        """Refuse new work while memory is short; where that is not enough, let go of what peers have sent in part."""
        self.door.memory_short = pressure is not Pressure.NONE
        if pressure is Pressure.CUT:
            self.router.cut()

    def reload_keys(self) -> None:
        """Ask who is allowed from now on; what could not be read is told to whoever runs the server."""
        if self.router.security is not None:
            for problem in self.router.security.reload():
                print(f"narsil-graph: {problem}", file=sys.stderr)

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
            self.replies.scored(
                finished.admitted,
                finished.scores,
                stage_times(finished.admitted, launched, flying.begin_ns, landed_ns),
                bucket_rows=batch.bucket.rows,
                rows_filled=batch.rows,
                now_ns=landed_ns,
            )
        self.schedule.cost.observe_replies(len(finished_all), time.monotonic_ns() - landed_ns)

    def use_the_silence(self) -> None:
        """Let go of dead clients' memory; capture one missing bucket, or take up a better ladder and capture that."""
        if self.segments is not None:
            self.segments.sweep()
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
            self.replies.dropped(admitted, refusal)
        self.drain()

    def unanswered(self) -> int:
        """Requests that were accepted and wait for their reply, queued or in flight."""
        in_flight = {id(piece.admitted) for flying in self.in_flight for piece in flying.batch.pieces}
        # A request that is being cut is in both places.
        return self.batcher.pending_requests + len(in_flight - {id(cut) for cut in self.batcher.cuts})

    def drain(self) -> None:
        """Answer every accepted request and refuse what still arrives."""
        self.door.draining = True
        self.batcher.tune(Settings())  # nothing more is worth waiting for
        for _ in range(DRAIN_ROUNDS_MAX):
            while self.in_flight or self.batcher.pending_requests:
                self.step(0)
            if not self.router.wait(0):
                return
            self.take_in()

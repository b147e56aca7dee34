"""The spine: one request's way from the socket to its scores, and the life of the process around it."""

import sys
import time
from collections.abc import Callable, Sequence

from narsil_graph.control import describe
from narsil_graph.door import Door
from narsil_graph.engine.engine import Engine, Launched
from narsil_graph.engine.launcher import DeviceFault
from narsil_graph.in_flight import InFlight, stage_times
from narsil_graph.lazy_capture import LazyCapture
from narsil_graph.memory_watch import LOOK_MS, MemoryWatch, Pressure
from narsil_graph.metrics import Counters
from narsil_graph.model.weights import Model
from narsil_graph.pace import CAPTURE_WAIT_MS, IDLE_WAIT_MS, LAUNCH_TIMEOUT_NS, TURN_NS, patience_ms
from narsil_graph.replies import Replies
from narsil_graph.schedule import Schedule
from narsil_graph.stop_signals import StopSignals
from narsil_graph.variants import MAIN, UNSCORED, Comparison, Split, Variant
from narsil_graph.variants_tally import Tally
from narsil_transport.admission import ModelLimits
from narsil_transport.batcher import Batch, Settings
from narsil_transport.buckets import Bucket
from narsil_transport.router import Router
from narsil_transport.segments import Segments
from narsil_transport.status import Refusal, Status

# Refusals while draining must not keep a busy server alive: after this many rounds the socket is closed.
DRAIN_ROUNDS_MAX = 100
BROKEN = Refusal(Status.UNAVAILABLE, "the engine failed; the server is stopping")
EXPIRED = Refusal(Status.DEADLINE_EXCEEDED, "expired in the queue")


class Server:
    """Owns nothing that it did not get: a bound router, an engine, an empty batcher, the served limits, the counters.

    The engine has captured its largest bucket at least, and the batcher has the ladder of those that are captured.
    While nothing else is to do, the server captures the others; ``verify`` raises a Failure if one scores wrongly.
    All this is the ``main`` variant. ``others`` take a share of the requests in its place, or are shadows: they score
    what it has answered, one launch at a time and only while nobody waits, so that a request which comes meanwhile
    waits for no more than that launch.
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
        others: Sequence[Variant] = (),
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
        tally = Tally(MAIN) if others else None
        self.replies = Replies(router, schedule=schedule, counters=counters, version=model.version, tally=tally)
        self.main = Variant(
            model=model,
            engine=engine,
            schedule=schedule,
            counters=counters,
            lazy=LazyCapture(engine, verify),
            answers=self.replies,
            tally=tally,
            share=1.0 - sum(other.share for other in others),
        )
        split = [other for other in others if other.share]
        self.shadows = [other for other in others if not other.share]
        self.variants = [self.main, *split]
        self.door = Door(
            router=router,
            variants=self.variants,
            split=Split(self.main, split) if split else None,
            limits=limits,
            replies=self.replies,
            describe=lambda request, now_ns: describe(self, request, now_ns),
            segments=segments,
        )
        self.in_flight = self.main.in_flight
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
        if any(variant.lazy.missing or variant.schedule.replanner for variant in (*self.variants, *self.shadows)):
            return CAPTURE_WAIT_MS
        return IDLE_WAIT_MS if self.memory is None else LOOK_MS

    def step(self, idle_wait_ms: int) -> bool:
        """Take what has arrived, launch what the engine has room for, answer what has landed.

        False if there was nothing to do, for at most ``idle_wait_ms``.
        """
        waiting = self.waiting()
        arrived = self.router.wait(self.wait_ms(waiting, idle_wait_ms))
        now_ns = self.take_in() if arrived else time.monotonic_ns()
        if self.memory is not None:
            self.guard(self.memory.look(now_ns))
        if self.router.peers.gone:
            self.door.forget(self.router.peers.take_gone())
        self.turn(self.main, now_ns)
        for variant in self.variants[1:]:
            self.turn(variant, time.monotonic_ns())
        if self.shadows:
            self.shadow(arrived)
        return arrived or bool(waiting)

    def turn(self, variant: Variant, now_ns: int) -> None:
        """Launch what the engine has room for, answer what has landed."""
        batcher = variant.schedule.batcher
        for late in batcher.expired(now_ns):
            variant.answers.dropped(late, EXPIRED)
        while variant.engine.room and (batch := batcher.take(now_ns)) is not None:
            self.launch(variant, batch)
        self.land(variant)
        variant.schedule.adjust(now_ns)

    def waiting(self) -> list[Variant]:
        """Those that have something queued or in flight; the shadows' turn is when no other has."""
        busy = [variant for variant in self.variants if variant.busy]
        return busy or [shadow for shadow in self.shadows if shadow.busy]

    def shadow(self, arrived: bool) -> None:
        """Let the shadow with the longest queue launch, if nothing has come and nothing else waits or flies."""
        longest = max(self.shadows, key=lambda shadow: shadow.schedule.batcher.pending_rows)
        busy = any(variant.busy for variant in self.variants) or any(shadow.in_flight for shadow in self.shadows)
        if not (busy or arrived) and (batch := longest.schedule.batcher.take(time.monotonic_ns())) is not None:
            self.launch(longest, batch)
        for shadow in self.shadows:
            self.land(shadow)

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
        for variant in self.variants:
            variant.schedule.cost.observe_requests(count, now_ns - begin_ns)
        return now_ns

    def wait_ms(self, waiting: Sequence[Variant], idle_ms: int) -> int:
        """How long the next look at the socket may wait, with so much to do."""
        now_ns = time.monotonic_ns() if waiting else 0
        for variant in waiting:
            batcher = variant.schedule.batcher
            wake_ns = batcher.wake_ns(now_ns)
            patience = patience_ms(
                queued=batcher.pending_requests,
                in_flight=len(variant.in_flight),
                since_launch_ns=now_ns - variant.last_launch_ns,
                linger_ns=0 if wake_ns is None else max(wake_ns - now_ns, 0),
                idle_ms=idle_ms,
            )
            idle_ms = min(idle_ms, patience)
        return idle_ms

    def guard(self, pressure: Pressure) -> None:
        """Refuse new work and drop the shadows' while memory is short; in need, also what peers have sent in part."""
        self.door.memory_short = pressure is not Pressure.NONE
        if self.door.memory_short:
            for shadow in self.shadows:
                shadow.cancel(lambda copy: True, UNSCORED)
        if pressure is Pressure.CUT:
            self.router.cut()

    def reload_keys(self) -> None:
        """Ask who is allowed from now on; what could not be read is told to whoever runs the server."""
        if self.router.security is not None:
            for problem in self.router.security.reload():
                print(f"narsil-graph: {problem}", file=sys.stderr)

    def launch(self, variant: Variant, batch: Batch) -> None:
        """Fill a free slot and launch it."""
        variant.last_launch_ns = begin_ns = time.monotonic_ns()
        try:
            flight = variant.engine.submit(
                batch.bucket, [(piece.admitted.request, piece.begin, piece.end) for piece in batch.pieces]
            )
        except Exception as error:
            return self.fail(error, variant, batch)
        alone = variant.schedule.lanes.launched(batch.bucket, flight.slot.lane, begin_ns)
        variant.in_flight.append(InFlight(batch, flight, begin_ns, alone))
        if variant.lazy.missing:
            variant.lazy.note(batch)

    def land(self, variant: Variant) -> None:
        """Answer the launches that have finished; a slot is free once the replies hold its scores."""
        engine = variant.engine
        # A copy: what has landed leaves the queue. In the order of launch, though lanes may overtake each other.
        for flying in tuple(variant.in_flight):
            try:
                if not engine.landed(flying.flight):
                    if time.monotonic_ns() - flying.begin_ns > LAUNCH_TIMEOUT_NS:
                        raise DeviceFault(f"a launch has not finished in {LAUNCH_TIMEOUT_NS / 1e9:.0f} s")
                    continue
                launched = engine.read(flying.flight)
            except Exception as error:
                return self.fail(error, variant)
            variant.in_flight.remove(flying)
            self.answer(variant, flying, launched)
            engine.release(flying.flight)

    def answer(self, variant: Variant, flying: InFlight, launched: Launched) -> None:
        """Scatter, reply."""
        batch, schedule = flying.batch, variant.schedule
        variant.counters.launched(batch.bucket, batch.rows)
        landed_ns = time.monotonic_ns()
        taken_ns, lane = launched.fill_ns + launched.launch_ns, flying.flight.slot.lane
        schedule.lanes.landed(batch.bucket, lane, taken_ns, landed_ns, alone=flying.alone)
        finished_all = variant.scatter.split(batch, launched.scores)
        for finished in finished_all:
            variant.answers.scored(
                finished.admitted,
                finished.scores,
                stage_times(finished.admitted, launched, flying.begin_ns, landed_ns),
                bucket_rows=batch.bucket.rows,
                rows_filled=batch.rows,
                now_ns=landed_ns,
            )
        schedule.cost.observe_replies(len(finished_all), time.monotonic_ns() - landed_ns)
        if variant is self.main and not self.door.draining:
            for shadow in self.shadows:
                assert isinstance(shadow.answers, Comparison)
                shadow.answers.offer(finished_all)

    def use_the_silence(self) -> None:
        """Let go of dead clients' memory; capture one missing bucket, or take up a better ladder and capture that."""
        if self.segments is not None:
            self.segments.sweep()
        everyone = (*self.variants, *self.shadows)
        incomplete = [variant for variant in everyone if variant.lazy.missing]
        for variant in incomplete[:1] or everyone:
            try:
                variant.improve(time.monotonic_ns())
            except Exception as error:
                self.fail(error, variant)

    def fail(self, error: Exception, broken: Variant, *launching: Batch) -> None:
        """An engine broke: everyone who waits is told so, the engines are left alone, and ``error`` is raised.

        ``launching`` were on their way to the broken one. If that is expendable, the server goes on without it instead.
        """
        if broken.expendable:
            return broken.retire(error, launching, time.monotonic_ns())
        for variant in (*self.variants, *self.shadows):
            variant.give_up(BROKEN, launching if variant is broken else (), time.monotonic_ns())
        self.drain()
        raise error

    def unanswered(self) -> int:
        """Requests that were accepted and wait for their reply, queued or in flight."""
        return sum(variant.unanswered() for variant in self.variants)

    def drain(self) -> None:
        """Answer every accepted request and refuse what still arrives. What shadows have not scored is dropped."""
        self.door.draining = True
        for variant in self.variants:
            variant.schedule.batcher.tune(Settings())  # nothing more is worth waiting for
        for shadow in self.shadows:
            shadow.give_up(UNSCORED, (), time.monotonic_ns())
        for _ in range(DRAIN_ROUNDS_MAX):
            while any(variant.busy for variant in self.variants):
                self.step(0)
            if not self.router.wait(0):
                return
            self.take_in()

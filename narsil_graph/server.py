"""The spine: one request's way from the socket to its scores, and the life of the process around it."""

import signal
import time
from types import FrameType, TracebackType

from narsil_graph.engine.engine import Engine, Launched
from narsil_graph.engine.scatter import Scatter
from narsil_graph.metrics import Counters
from narsil_graph.model.weights import Model
from narsil_transport.admission import Admitted, ModelLimits, admit
from narsil_transport.batcher import Batch, Batcher
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
# Refusals while draining must not keep a busy server alive: after this many rounds the socket is closed.
DRAIN_ROUNDS_MAX = 100


class Server:
    """Owns nothing that it did not get: a bound router, a captured engine, an empty batcher, the served limits."""

    def __init__(self, *, router: Router, engine: Engine, batcher: Batcher, limits: ModelLimits, model: Model) -> None:
        self.router = router
        self.engine = engine
        self.batcher = batcher
        self.limits = limits
        self.version = model.version
        self.spec = model.spec
        self.scatter = Scatter()
        self.counters = Counters()
        self.draining = False
        self.started_ns = time.monotonic_ns()

    def run(self, stop: "StopSignals") -> None:
        """Serve until ``stop``, then answer what was accepted, refuse what was not, and return."""
        while not stop.requested:
            self.step(IDLE_WAIT_MS)
        self.drain()

    def step(self, wait_ms: int) -> None:
        """Take what has arrived, then launch one batch and answer it."""
        for message in self.router.receive(0 if self.batcher.pending_requests else wait_ms):
            self.accept(message)
        now_ns = time.monotonic_ns()
        for late in self.batcher.expired(now_ns):
            self.refuse(late.route, late.request.request_id, Refusal(Status.DEADLINE_EXCEEDED, "expired in the queue"))
        batch = self.batcher.take(now_ns)
        if batch is not None:
            self.answer(batch)

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

    def answer(self, batch: Batch) -> None:
        """Fill, launch, scatter, reply."""
        begin_ns = time.monotonic_ns()
        try:
            launched = self.engine.run(
                batch.bucket, [(piece.admitted.request, piece.begin, piece.end) for piece in batch.pieces]
            )
        except Exception:
            self.fail(batch)
            raise
        self.counters.replayed(batch.bucket, batch.rows)
        launched_ns = time.monotonic_ns()
        for finished in self.scatter.split(batch, launched.scores):
            times = stage_times(finished.admitted, launched, begin_ns, launched_ns)
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

    def fail(self, batch: Batch) -> None:
        """The engine broke: everyone who waits is told so before the process ends."""
        self.draining = True
        refusal = Refusal(Status.UNAVAILABLE, "the engine failed; the server is stopping")
        lost: Batch | None = batch
        told: set[int] = set()
        while lost is not None:
            for piece in lost.pieces:
                if id(piece.admitted) not in told:
                    told.add(id(piece.admitted))
                    self.refuse(piece.admitted.route, piece.admitted.request.request_id, refusal)
            lost = self.batcher.take(time.monotonic_ns())
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
            inflight = self.batcher.pending_requests
            return encode_health(HealthReply(request.request_id, self.version, state, inflight, uptime_s))
        meta = {
            "spec": self.spec.to_dict(),
            "rows_max": self.limits.rows_max,
            "buckets": [[bucket.rows, bucket.ids] for bucket in self.engine.ladder.buckets],
            "counters": self.counters.to_dict(dropped_replies=self.router.dropped_replies),
        }
        return encode_metadata(MetadataReply(request.request_id, self.version, meta))

    def drain(self) -> None:
        """Answer every accepted request and refuse what still arrives."""
        self.draining = True
        for _ in range(DRAIN_ROUNDS_MAX):
            while self.batcher.pending_requests:
                self.step(0)
            arrived = self.router.receive(0)
            for message in arrived:
                self.accept(message)
            if not arrived:
                return


def stage_times(admitted: Admitted, launched: Launched, begin_ns: int, launched_ns: int) -> StageTimes:
    """Where a reply's time went; for a split request, the queue stage lasts until its last launch."""
    now_ns = time.monotonic_ns()
    return StageTimes(
        (begin_ns - admitted.admitted_ns) / 1e3,
        launched.fill_ns / 1e3,
        launched.launch_ns / 1e3,
        (now_ns - launched_ns) / 1e3,
        (now_ns - admitted.admitted_ns) / 1e3,
    )


class StopSignals:
    """While entered, the first SIGTERM or SIGINT asks for a drain and the second ends the process at once."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._stop)
        return self

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise SystemExit(128 + number)
        self.requested = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

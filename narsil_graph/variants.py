"""The models of one server: each with its engine, its queue and its launches in flight, and which one scores what."""

import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import accumulate
from typing import Protocol

from narsil_graph.engine.engine import Engine
from narsil_graph.engine.scatter import Finished, Scatter
from narsil_graph.in_flight import InFlight
from narsil_graph.lazy_capture import LazyCapture
from narsil_graph.metrics import Counters
from narsil_graph.model.weights import Model
from narsil_graph.schedule import Schedule
from narsil_graph.variants_tally import Agreement, Tally
from narsil_transport.admission import Admitted
from narsil_transport.batcher import Batch, Settings
from narsil_transport.messages import Floats, InferRequest, StageTimes
from narsil_transport.router import Route
from narsil_transport.status import Refusal, Status

# The name of the model of `--model`.
MAIN = "A"
# More copies would tell no more, and clients would wait for the queue: one of 65,536 requests of a row takes 63 ms to
# plan anew when costs drift, this one 1 ms.
COPIES_MAX = 1000
UNSCORED = Refusal(Status.CANCELLED, "the shadow does not score this")


class Answers(Protocol):
    """Where an admitted request's outcome goes: to its client, or to a comparison."""

    def scored(
        self, admitted: Admitted, scores: Floats, times: StageTimes, *, bucket_rows: int, rows_filled: int, now_ns: int
    ) -> None:
        """The scores, which may be overwritten afterwards."""
        ...

    def dropped(self, admitted: Admitted, refusal: Refusal) -> None:
        """It will not be scored."""
        ...


@dataclass(slots=True, eq=False)
class Copy:
    """What a shadow's request has for a route: the scores f4 [n] that its client was sent."""

    scores: Floats


class Comparison:
    """The answers of a shadow: compared, and sent to nobody. ``offer`` fills its queue from what was answered.

    Once there is a ``failure``, one sentence, it takes no more.
    """

    def __init__(self, schedule: Schedule, tally: Tally) -> None:
        self.agreement = Agreement()
        self.dropped_copies = 0
        self.failure: str | None = None
        self._schedule = schedule
        self._tally = tally

    def offer(self, finished: Iterable[Finished]) -> None:
        """Queue a copy of each of these requests; it waits for no deadline. What there is no room for is counted."""
        batcher = self._schedule.batcher
        for answered in finished:
            if self.failure is None and batcher.pending_requests < COPIES_MAX:
                copy = replace(answered.admitted, route=Copy(answered.scores.copy()), deadline_ns=None, bulk=False)
                if batcher.add(copy) is None:
                    continue
            self.dropped_copies += 1

    def scored(
        self, admitted: Admitted, scores: Floats, times: StageTimes, *, bucket_rows: int, rows_filled: int, now_ns: int
    ) -> None:
        assert isinstance(admitted.route, Copy)
        self._tally.scored(scores, times)
        self.agreement.add(admitted.route.scores, scores)

    def dropped(self, admitted: Admitted, refusal: Refusal) -> None:
        self.dropped_copies += 1


@dataclass(slots=True, eq=False, kw_only=True)
class Variant:
    """One model that is served, and what of its work is under way.

    ``share`` of the requests are its own; with 0 it is a shadow, which may be ``expendable``: when it fails, the others
    go on. ``counters`` count its launches. The ``tally`` is None where there is but one model.
    """

    model: Model
    engine: Engine
    schedule: Schedule
    counters: Counters
    lazy: LazyCapture
    answers: Answers
    tally: Tally | None = None
    share: float = 1.0
    expendable: bool = False
    scatter: Scatter = field(default_factory=Scatter)
    in_flight: deque[InFlight] = field(default_factory=deque[InFlight])
    last_launch_ns: int = 0

    @property
    def busy(self) -> bool:
        """Whether anything is queued or in flight."""
        return bool(self.in_flight or self.schedule.batcher.pending_requests)

    def improve(self, now_ns: int) -> None:
        """Capture one missing bucket, or take up a better ladder. Nothing may be in flight."""
        schedule, ladder = self.schedule, None
        if self.lazy.missing:
            ladder = self.lazy.capture_next()
        elif schedule.replanner is not None:
            better = schedule.replanner.propose(now_ns, schedule.cost, self.engine.ladder)
            ladder = None if better is None else self.lazy.pursue(better)
        if ladder is not None:
            schedule.batcher.use(ladder)

    def cancel(self, matches: Callable[[Admitted], bool], refusal: Refusal) -> None:
        """Drop the queued requests that match, but for those of which something was launched."""
        for admitted in self.schedule.batcher.cancel(matches):
            self.answers.dropped(admitted, refusal)

    def give_up(self, refusal: Refusal, launching: Iterable[Batch], now_ns: int) -> None:
        """Drop every request that waits here, queued, in flight or in these batches, each once."""
        batcher = self.schedule.batcher
        batcher.tune(Settings())  # or take would let some linger
        lost = [*(flying.batch for flying in self.in_flight), *launching]
        self.in_flight.clear()
        queued = batcher.cancel(lambda admitted: True)
        # What cannot be cancelled: the rest of a request that was split.
        while (batch := batcher.take(now_ns)) is not None:
            lost.append(batch)
        # A request that was split is in several batches.
        waiting = {id(piece.admitted): piece.admitted for batch in lost for piece in batch.pieces}
        for admitted in (waiting | {id(admitted): admitted for admitted in queued}).values():
            self.answers.dropped(admitted, refusal)

    def retire(self, error: Exception, launching: Iterable[Batch], now_ns: int) -> None:
        """It has failed, and is expendable: nothing of it waits, launches or is captured any more."""
        assert isinstance(self.answers, Comparison) and self.tally is not None, "only a shadow is expendable"
        self.answers.failure = f"{type(error).__name__}: {error}"
        self.give_up(UNSCORED, launching, now_ns)
        self.lazy.missing.clear()
        print(f"narsil-graph: shadow {self.tally.name} has failed and is left out: {error}", file=sys.stderr)

    def unanswered(self) -> int:
        """Requests that were accepted and wait for their reply, queued or in flight."""
        batcher = self.schedule.batcher
        in_flight = {id(piece.admitted) for flying in self.in_flight for piece in flying.batch.pieces}
        # A request that is being cut is in both places.
        return batcher.pending_requests + len(in_flight - {id(cut) for cut in batcher.cuts})

    def to_dict(self, role: str) -> dict[str, object]:
        """Ready for msgpack; PROTOCOL.md says what the keys mean."""
        assert self.tally is not None, "only a server of several models tells of each"
        told: dict[str, object] = {
            "role": role,
            "share": self.share,
            "model": self.model.spec.name,
            "version": self.model.version,
            **self.tally.to_dict(),
            "buckets": self.counters.buckets(),
            "cost": self.schedule.cost.to_dict(),
        }
        if isinstance(self.answers, Comparison):
            told |= {"dropped": self.answers.dropped_copies, "agreement": self.answers.agreement.to_dict()}
            if self.answers.failure is not None:
                told["failed"] = self.answers.failure
        return told


class Split:
    """Which variant scores a request: by its key, the same in every server with variants of these names and shares.

    The names are hashed too, or the same keys would be the first to meet every new model. From now on the variants'
    schedules reckon with each other.
    """

    def __init__(self, main: Variant, others: Sequence[Variant]) -> None:
        named = {variant.tally.name: variant for variant in others if variant.tally is not None}
        # In the order of the names, whatever that of the command line was.
        names = sorted(named)
        self._variants = (*(named[name] for name in names), main)
        self._ends = [*accumulate(named[name].share for name in names)]
        self._salt = ",".join(names).encode() + b"\0"
        for variant in self._variants:
            variant.schedule.beside = [other.schedule for other in self._variants if other is not variant]

    def choose(self, request: InferRequest, route: Route) -> Variant:
        """One without a key goes by its connection and id, which spreads a client over all."""
        key = request.key.encode() if request.key else request.request_id.to_bytes(8, "little") + route.identity
        place = int.from_bytes(blake2b(self._salt + key, digest_size=8).digest(), "little") / 2**64
        return self._variants[bisect_right(self._ends, place)]

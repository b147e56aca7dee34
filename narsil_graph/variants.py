"""The models of one server: each with its engine, its queue and its launches in flight, and which one scores what."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
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
from narsil_transport.status import Refusal

# The name of the model of `--model`.
MAIN = "A"


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
    """The answers of a shadow: compared, and sent to nobody. ``offer`` fills its queue from what was answered."""

    def __init__(self, schedule: Schedule, tally: Tally) -> None:
        self.agreement = Agreement()
        self.dropped_copies = 0
        self._schedule = schedule
        self._tally = tally

    def offer(self, finished: Iterable[Finished]) -> None:
        """Queue a copy of each of these requests; it waits for no deadline. What there is no room for is counted."""
        for answered in finished:
            copy = replace(answered.admitted, route=Copy(answered.scores.copy()), deadline_ns=None, bulk=False)
            if self._schedule.batcher.add(copy) is not None:
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

    ``share`` of the requests are its own; with 0 it is a shadow. ``counters`` count its launches. The ``tally`` is None
    where there is but one model.
    """

    model: Model
    engine: Engine
    schedule: Schedule
    counters: Counters
    lazy: LazyCapture
    answers: Answers
    tally: Tally | None = None
    share: float = 1.0
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

    def give_up(self, launching: Iterable[Batch], now_ns: int) -> Iterable[Admitted]:
        """Every request that waits here, queued, in flight or in these batches, each once. Nothing waits afterwards."""
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
        return (waiting | {id(admitted): admitted for admitted in queued}).values()

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
        return told


class Split:
    """Which variant scores a request: by its key, the same in every server with variants of these names and shares.

    The names are hashed too, or the same keys would be the first to meet every new model.
    """

    def __init__(self, main: Variant, others: Sequence[Variant]) -> None:
        self._variants = (*others, main)
        self._ends = [*accumulate(variant.share for variant in others)]
        self._salt = ",".join(variant.tally.name for variant in others if variant.tally is not None).encode() + b"\0"

    def choose(self, request: InferRequest, route: Route) -> Variant:
        """One without a key goes by its connection and id, which spreads a client over all."""
        key = request.key.encode() if request.key else request.request_id.to_bytes(8, "little") + route.identity
        place = int.from_bytes(blake2b(self._salt + key, digest_size=8).digest(), "little") / 2**64
        return self._variants[bisect_right(self._ends, place)]

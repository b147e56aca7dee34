"""What an engine must show as a whole: every bucket captured, none disturbing another, memory that stays as it is."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from narsil_graph.engine.doctor_cases import usual_bags
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.launcher import Finding, Footprint, Slot
from narsil_graph.engine.synthetic import one_hot_request
from narsil_graph.limits import limits_of
from narsil_graph.model.spec import ModelSpec
from narsil_transport.admission import ModelLimits, admit
from narsil_transport.messages import InferRequest
from narsil_transport.status import Refusal, Status

REPLAYS = 1000
INTERLEAVED_ROUNDS = 3


class EngineChecks:
    """The checks of ``engine``."""

    def __init__(self, engine: Engine, spec: ModelSpec, rng: np.random.Generator) -> None:
        self._engine = engine
        self._spec = spec
        self._rng = rng
        self._slots = [slot for captured in engine.captured.values() for slot in captured.slots]

    def findings(self) -> Iterator[Finding]:
        yield from self._missing()
        if not self._slots:
            return
        yield Finding("interleave", self._interleave())
        if self._engine.launcher.footprint() != Footprint():
            yield Finding("growth", self._growth())
        yield Finding("ids", self._ids())

    def _missing(self) -> Iterator[Finding]:
        """One finding per bucket that has not been captured, or one that says all have."""
        missing = [bucket for bucket in self._engine.ladder.buckets if bucket not in self._engine.captured]
        for bucket in missing:
            yield Finding("capture", f"bucket {bucket.rows} was not captured: capture it, or take it out of --buckets")
        if not missing:
            yield Finding("capture", None)

    def _scored(self, slot: Slot, request: InferRequest) -> NDArray[np.float32]:
        launched = self._engine.finish(self._engine.submit_to(slot, [(request, 0, request.rows)]))
        return launched.scores[: request.rows].copy()

    def _requests(self, slots: list[Slot]) -> list[InferRequest]:
        """A request for each slot, of random rows, one id per bag or several."""
        rows = [int(self._rng.integers(1, slot.arena.bucket.rows, endpoint=True)) for slot in slots]
        kinds = self._rng.integers(0, 2, len(slots))
        return [
            (one_hot_request, usual_bags)[kind](self._spec, count, self._rng)
            for kind, count in zip(kinds, rows, strict=True)
        ]

    def _interleave(self) -> str | None:
        """Every slot in flight at once, launched in one random order and read in another."""
        for _ in range(INTERLEAVED_ROUNDS):
            requests = self._requests(self._slots)
            alone = [self._scored(slot, request) for slot, request in zip(self._slots, requests, strict=True)]
            order = self._rng.permutation(len(self._slots))
            flights = {
                place: self._engine.submit_to(self._slots[place], [(requests[place], 0, requests[place].rows)])
                for place in order
            }
            for place in self._rng.permutation(order):
                scores = self._engine.finish(flights[place]).scores[: requests[place].rows]
                if scores.tobytes() != alone[place].tobytes():
                    rows = self._slots[place].arena.bucket.rows
                    return f"bucket {rows} scores otherwise while other slots are in flight: let slots share no memory"
        return None

    def _growth(self) -> str | None:
        """Launches in random order of buckets, and what is held before and after them."""
        requests, before = self._requests(self._slots), self._engine.launcher.footprint()
        for place in self._rng.integers(0, len(self._slots), REPLAYS):
            self._scored(self._slots[place], requests[place])
        after = self._engine.launcher.footprint()
        grown = [
            f"{what} by {now - then} bytes"
            for what, then, now in (
                ("device pools", before.pool_bytes, after.pool_bytes),
                ("page-locked memory", before.pinned_bytes, after.pinned_bytes),
            )
            if now != then
        ]
        if not grown:
            return None
        return f"{REPLAYS} launches changed {' and '.join(grown)}: allocate only when preparing and capturing"

    def _ids(self) -> str | None:
        """Ids beside every table are refused by name, and the engine scores as before."""
        ladder, request = self._engine.ladder, one_hot_request(self._spec, 1, self._rng)
        limits = limits_of(self._spec, rows_max=ladder.rows_max, ids_per_row_max=ladder.ids_max)
        before = self._scored(self._slots[0], request)
        for feature, table in enumerate(self._spec.feature_tables):
            for wrong in (-1, table.rows):
                if not _refused(request, feature, wrong, limits):
                    name = limits.feature_names[feature]
                    return (
                        f"id {wrong} of feature {name!r} would reach the device: refuse it when a request is admitted"
                    )
        if self._scored(self._slots[0], request).tobytes() != before.tobytes():
            return "after refusals the engine scores otherwise: let admission change nothing"
        return None


def _refused(request: InferRequest, feature: int, wrong: int, limits: ModelLimits) -> bool:
    """Whether the request is refused for a ``wrong`` id of ``feature``, as one id per bag and as bags of one."""
    assert request.ids is not None
    ids = request.ids.astype(np.int64)
    ids[-1, feature] = wrong
    one_id = replace(request, ids=ids)
    bags = replace(request, ids=None, lengths=np.ones(ids.shape, np.int32), values=ids.ravel())
    answers = [admit(each, limits=limits, now_ns=0, route=None) for each in (one_id, bags)]
    name = repr(limits.feature_names[feature])
    return all(
        isinstance(answer, Refusal) and answer.status is Status.OUT_OF_RANGE and name in answer.detail
        for answer in answers
    )

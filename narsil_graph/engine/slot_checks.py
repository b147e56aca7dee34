"""What one slot of a bucket must show: right scores, whatever lies in its padding and whoever shares its batch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narsil_graph.engine.arena import RowRange
from narsil_graph.engine.doctor_cases import Case, Cases, Floats, head
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.launcher import Finding, Slot
from narsil_transport.messages import InferRequest

REPEATS = 3
# The largest id there is. A graph clamps ids on the device, and nothing else looks at those behind the last bag.
POISON_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far scores may be from float64's and from the eager forward's, and what to do where they are further."""

    exact: float
    eager: float
    remedy: str


class SlotChecks:
    """The checks of one ``slot``; making this scores every case once."""

    def __init__(self, engine: Engine, slot: Slot, cases: Cases, bounds: Bounds) -> None:
        self._engine = engine
        self._slot = slot
        self._cases = cases
        self._bounds = bounds
        self._scores = [self._scored(case.request) for case in cases.all]
        self.error = worst(self._scores, [case.exact for case in cases.all])
        self.eager_error = worst(self._scores, [case.eager for case in cases.all])

    def findings(self) -> Iterator[Finding]:
        """One per check, the same checks for every slot of an engine."""
        yield Finding("parity", self._parity())
        if self._cases.one_id[0].eager is not None:
            yield Finding("eager", self._eager())
        forms = (self._cases.one_id, self._cases.bags)
        yield Finding("repeat", first(self._repeat(case) for case, _ in forms))
        yield Finding("stale", first(self._stale(*pair) for pair in forms))
        yield Finding("padding", first(self._padding(case.request) for case, _ in forms))
        yield Finding("neighbours", first(self._neighbours(case.request) for case, _ in forms))
        yield from self._engine.launcher.examine(self._slot)

    def _scored(self, request: InferRequest) -> NDArray[np.float32]:
        return self._scored_ranges([(request, 0, request.rows)])

    def _scored_ranges(self, ranges: Iterable[RowRange]) -> NDArray[np.float32]:
        launched = self._engine.finish(self._engine.submit_to(self._slot, ranges))
        return launched.scores[: self._slot.arena.rows].copy()

    def _parity(self) -> str | None:
        if self.error <= self._bounds.exact:
            return None
        off = f"scores are {self.error:.1e} off float64, more than {self._bounds.exact:.0e}"
        return f"{off}: {self._bounds.remedy}"

    def _eager(self) -> str | None:
        if self.eager_error <= self._bounds.eager:
            return None
        off = f"scores are {self.eager_error:.1e} off the eager forward, more than {self._bounds.eager:.0e}"
        return f"{off}: what was captured is not that forward; serve with --engine eager until it is"

    def _repeat(self, case: Case) -> str | None:
        if len({self._scored(case.request).tobytes() for _ in range(REPEATS)}) == 1:
            return None
        return f"{REPEATS} launches of one input differ: let no kernel read what it has not written, nor add by atomics"

    def _stale(self, case: Case, other: Case) -> str | None:
        """From one input to another, scores must move as far as the others' do: what is off in both is not stale."""
        moved = self._scored(other.request)[: len(other.expected)] - self._scored(case.request)[: len(case.expected)]
        bound = self._bounds.exact if case.eager is None else self._bounds.eager
        if np.abs(moved - (other.expected - case.expected)).max() <= 2 * bound:
            return None
        return "another input keeps scores of the one before: read every input from the arena at each launch"

    def _padding(self, full: InferRequest) -> str | None:
        """Score fewer rows than the bucket holds, before and after every byte around them is poisoned."""
        request, arena = head(full, max(full.rows // 2, 1)), self._slot.arena
        clean = self._scored(request).tobytes()
        for section, poison in ((arena.dense, np.nan), (arena.values, POISON_ID), (arena.offsets, POISON_ID)):
            section.fill(poison)
        if self._scored(request).tobytes() != clean:
            return "what an earlier batch left in the arena changes the scores: let its fill define every byte"
        arena.dense[arena.rows :] = np.nan
        arena.values[arena.ids :] = POISON_ID
        launcher = self._engine.launcher
        launcher.launch(self._slot)
        launcher.wait(self._slot)
        if launcher.scores(self._slot)[: arena.rows].tobytes() != clean:
            return "padding rows leak into real ones: let no kernel mix rows, nor read behind the last bag"
        return None

    def _neighbours(self, full: InferRequest) -> str | None:
        """A row alone, and every row at another place among other rows."""
        together = self._scored(full)
        for row in sorted({0, full.rows // 2, full.rows - 1}):
            alone = self._scored_ranges([(full, row, row + 1)])
            if alone.tobytes() != together[row : row + 1].tobytes():
                scores = f"{together[row]!r} among others and {alone[0]!r} alone"
                return f"row {row} scores {scores}: take kernels that compute every row alike"
        for places in sorted({1, 2, 3, full.rows // 2} & set(range(1, full.rows))):
            moved = self._scored_ranges([(full, places, full.rows), (full, 0, places)])
            if moved.tobytes() != np.roll(together, -places).tobytes():
                away = f"rows score otherwise when they lie {places} places further up"
                return f"{away}: take kernels that compute every row alike"
        return None


def first(problems: Iterable[str | None]) -> str | None:
    return next((problem for problem in problems if problem is not None), None)


def worst(scores: Iterable[Floats], expected: Iterable[Floats | None]) -> float:
    """The largest difference, of as many rows as others have scored; NaN where a score is not a number."""
    off = [np.abs(ours[: len(theirs)] - theirs).max() for ours, theirs in zip(scores, expected, strict=True)
           if theirs is not None]  # fmt: skip
    return float(np.max(off, initial=0.0))

"""Proof that every captured bucket computes the model, whatever lies in its padding and whoever shares its batch."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narsil_graph.engine.eager import EagerForward
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.exact import exact_scores
from narsil_graph.engine.launcher import Precision
from narsil_graph.engine.synthetic import multi_hot_request, one_hot_request
from narsil_graph.model.weights import Model
from narsil_transport.buckets import Bucket
from narsil_transport.wire import InferRequest

# float32 kernels differ from float64 by the order of their sums. The other two bounds say where a score stops being one
# to rank by: bfloat16 errs by 3e-3 at most on the reference and demo models; int8 by 3e-2 on the first, but by up to
# 1.5e-1 on the second, which the doctor then declines (benchmarks/RESULTS.md).
TOLERANCES = {Precision.F32: 1e-6, Precision.BF16: 2e-2, Precision.INT8: 1e-1}
EXACT_ROWS_MAX = 64
TIMED_SECONDS = 0.05
TIMED_LAUNCHES_MIN = 5
POISON_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one bucket: ``problem`` is None where it passed, else one sentence."""

    check: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class BucketReport:
    """What was found and measured on one bucket; times in microseconds, memory of its static input in MiB."""

    rows: int
    kernels: str
    error: float
    arena_mib: float
    replay_us_p50: float
    replay_us_p99: float
    eager_us_p50: float
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        return all(finding.problem is None for finding in self.findings)


class Doctor:
    """Examines a captured ``engine`` of ``model``."""

    def __init__(self, model: Model, engine: Engine, precision: Precision) -> None:
        self._model = model
        self._engine = engine
        self._tolerance = TOLERANCES[precision]
        self._eager = EagerForward(model)

    def reports(self) -> Iterator[BucketReport]:
        """One report per bucket, smallest first."""
        for bucket in self._engine.ladder.buckets:
            yield self._examine(bucket)

    def _examine(self, bucket: Bucket) -> BucketReport:
        rng = np.random.default_rng(bucket.rows)
        full = one_hot_request(self._model.spec, bucket.rows, rng)
        error, parity = self._parity(bucket, full, rng)
        findings = (
            Finding("parity", parity),
            Finding("repeat", self._repeat(bucket, full)),
            Finding("padding", self._padding(bucket, rng)),
            Finding("neighbours", self._neighbours(bucket, full)),
            Finding("stale", self._stale(bucket, full, rng)),
        )
        slot, eager_slot = self._engine.slots[bucket], self._eager.capture(bucket)
        eager_slot.arena.fill([(full, 0, full.rows)])
        slot.arena.fill([(full, 0, full.rows)])
        replay, eager = timed_us(lambda: self._engine.launcher.launch(slot), lambda: self._eager.launch(eager_slot))
        arena = slot.arena
        return BucketReport(
            rows=bucket.rows,
            kernels=slot.kernels,
            error=error,
            arena_mib=(arena.dense.nbytes + arena.values.nbytes + arena.offsets.nbytes) / 2**20,
            replay_us_p50=float(np.percentile(replay, 50)),
            replay_us_p99=float(np.percentile(replay, 99)),
            eager_us_p50=float(np.percentile(eager, 50)),
            findings=findings,
        )

    def _score(self, bucket: Bucket, request: InferRequest, begin: int, end: int) -> NDArray[np.float32]:
        return self._engine.run(bucket, [(request, begin, end)]).scores[: end - begin].copy()

    def _parity(self, bucket: Bucket, full: InferRequest, rng: np.random.Generator) -> tuple[float, str | None]:
        bags = 2 * bucket.ids // (bucket.rows * len(self._model.spec.sparse_features)) - 1
        rows = min(bucket.rows, EXACT_ROWS_MAX)
        worst = 0.0
        for request in (full, multi_hot_request(self._model.spec, rows, min(bags, 3), rng)):
            if request.values is not None and len(request.values) > bucket.ids:
                continue
            scores = self._score(bucket, request, 0, request.rows)[:rows]
            exact = exact_scores(self._model, _head(request, rows))
            worst = float(np.maximum(worst, np.abs(scores - exact).max()))  # unlike max(), keeps a NaN
        problem = f"scores are {worst:.1e} off float64, more than {self._tolerance:.0e}"
        return worst, None if worst <= self._tolerance else problem

    def _repeat(self, bucket: Bucket, full: InferRequest) -> str | None:
        first, second = (self._score(bucket, full, 0, full.rows) for _ in range(2))
        return None if first.tobytes() == second.tobytes() else "two launches of one input differ"

    def _padding(self, bucket: Bucket, rng: np.random.Generator) -> str | None:
        """Score fewer rows than the bucket holds, before and after every byte around them is poisoned."""
        rows = max(bucket.rows // 2, 1)
        request = one_hot_request(self._model.spec, rows, rng)
        clean = self._score(bucket, request, 0, rows)
        arena = self._engine.slots[bucket].arena
        arena.dense.fill(np.nan)
        arena.values.fill(POISON_ID)
        arena.offsets.fill(POISON_ID)
        if self._score(bucket, request, 0, rows).tobytes() != clean.tobytes():
            return "what an earlier batch left in the arena changes the scores"
        arena.dense[rows:] = np.nan
        arena.values[request.rows * len(self._model.spec.sparse_features) :] = POISON_ID
        slot = self._engine.slots[bucket]
        self._engine.launcher.launch(slot)
        if self._engine.launcher.scores(slot)[:rows].tobytes() != clean.tobytes():
            return "padding rows leak into real ones"
        return None

    def _neighbours(self, bucket: Bucket, full: InferRequest) -> str | None:
        """A row alone, and every row at another place among other rows."""
        together = self._score(bucket, full, 0, full.rows)
        for row in sorted({0, full.rows // 2, full.rows - 1}):
            alone = self._score(bucket, full, row, row + 1)
            if alone.tobytes() != together[row : row + 1].tobytes():
                return f"row {row} scores {together[row]!r} among others and {alone[0]!r} alone"
        for places in sorted({1, 2, 3, full.rows // 2} & set(range(full.rows))):
            ranges = [(full, places, full.rows), (full, 0, places)]
            moved = self._engine.run(bucket, ranges).scores[: full.rows]
            if moved.tobytes() != np.roll(together, -places).tobytes():
                return f"rows score otherwise when they lie {places} places further up"
        return None

    def _stale(self, bucket: Bucket, full: InferRequest, rng: np.random.Generator) -> str | None:
        """Another input gets other scores, where the model itself tells the two apart."""
        rows = min(full.rows, EXACT_ROWS_MAX)
        first = self._score(bucket, full, 0, rows)
        other = one_hot_request(self._model.spec, rows, rng)
        second = self._score(bucket, other, 0, rows)
        apart = np.abs(exact_scores(self._model, _head(full, rows)) - exact_scores(self._model, other)).max()
        stale = np.array_equal(first, second) and apart > self._tolerance
        return "another input gives the same scores" if stale else None


def _head(request: InferRequest, rows: int) -> InferRequest:
    """The first ``rows`` rows of a request; a multi-hot one is already that short."""
    if request.ids is None:
        return request
    return InferRequest(0, "", None, None, request.dense[:rows], request.ids[:rows], None, None)


def timed_us(*calls: Callable[[], object]) -> list[NDArray[np.float64]]:
    """Durations of each call in microseconds, the calls taking turns."""
    samples: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + TIMED_SECONDS * len(calls)
    while time.perf_counter() < end or len(samples[0]) < TIMED_LAUNCHES_MIN:
        for number, call in enumerate(calls):
            begin = time.perf_counter_ns()
            call()
            samples[number].append((time.perf_counter_ns() - begin) / 1e3)
    return [np.array(taken) for taken in samples]

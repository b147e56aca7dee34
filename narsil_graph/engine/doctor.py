"""Proof that every captured bucket computes the model: each slot examined, then the engine as a whole."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from narsil_graph.engine.cpu_plan import CpuPlan
from narsil_graph.engine.doctor_cases import Floats, cases_of
from narsil_graph.engine.eager import HOST, EagerForward
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.engine_checks import EngineChecks
from narsil_graph.engine.exact import exact_scores
from narsil_graph.engine.forward import DTYPES
from narsil_graph.engine.launcher import DeviceFault, Finding, Precision, Slot
from narsil_graph.engine.slot_checks import Bounds, SlotChecks
from narsil_graph.errors import Failure
from narsil_graph.model.weights import Model
from narsil_transport.buckets import Bucket
from narsil_transport.messages import InferRequest

# From float64. float32 kernels differ from it by the order of their sums. The other bounds say where a score stops
# being one to rank by: on a CPU bfloat16 errs by 3e-3 at most on the reference and demo models; int8 by 3e-2 on the
# first, but by up to 1.5e-1 on the second, which the doctor then declines (benchmarks/RESULTS.md). TF32 and float16
# keep three bits more than bfloat16: an eighth of what the start check allows that, rounded up. Those two, and bfloat16
# on CUDA, have not been measured on a device yet.
TOLERANCES = {
    Precision.F32: 1e-6,
    Precision.TF32: 1e-2,
    Precision.BF16: 2e-2,
    Precision.FP16: 1e-2,
    Precision.INT8: 1e-1,
}
# From the eager forward on the device of the graphs, which calls what they recorded; cuBLAS may choose otherwise for
# each. A CPU plan runs other kernels than the eager forward, some in float32: its bounds are those from float64.
EAGER_TOLERANCES = {Precision.F32: 1e-6, Precision.TF32: 2e-3, Precision.BF16: 2e-3, Precision.FP16: 2e-3}
TIMED_SECONDS = 0.05
TIMED_LAUNCHES_MIN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketReport:
    """What was found and measured on one bucket: times in its first slot; errors and findings over all of them.

    ``nodes`` are those of the graph for one id per bag, 0 without a graph. ``capture_mib`` is what the device lost to
    capturing the bucket, ``arena_mib`` one slot's static input. ``error`` is the largest from float64, ``eager_error``
    from the eager forward: None where there is none in this arithmetic.
    """

    rows: int
    ids: int
    kernels: str
    nodes: int
    capture_ms: float
    capture_mib: float
    arena_mib: float
    error: float
    eager_error: float | None
    replay_us_p50: float
    replay_us_p99: float
    eager_us_p50: float
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found. ``fault`` is the DeviceFault that ended the examination, if one did."""

    reports: tuple[BucketReport, ...]
    findings: tuple[Finding, ...]
    fault: str | None

    @property
    def checks(self) -> int:
        return len(self.findings) + sum(len(report.findings) for report in self.reports)

    @property
    def problems(self) -> tuple[str, ...]:
        """One line each: where, which check, what is wrong, and what to do about it."""
        found = [(f"bucket {report.rows}", finding) for report in self.reports for finding in report.findings]
        found += [("engine", finding) for finding in self.findings]
        lines = [f"{where}: {each.check}: {each.problem}" for where, each in found if each.problem is not None]
        return (*lines, *([] if self.fault is None else [self.fault]))


class Doctor:
    """Examines an ``engine`` of ``model`` that has been captured, beside an eager forward on its ``device``.

    The eager forward has weights of its own, so that they must fit the device twice; Failure where they do not.
    """

    def __init__(self, model: Model, engine: Engine, precision: Precision, device: torch.device = HOST) -> None:
        self._model = model
        self._engine = engine
        self._comparable = precision in DTYPES
        try:
            self._eager = EagerForward(model, device, precision if self._comparable else Precision.F32)
        except torch.OutOfMemoryError:
            needed = (
                f"{model.weight_bytes / 2**20:.0f} MiB more than the graphs do, for the eager forward's own weights"
            )
            raise Failure(f"the doctor needs {needed}: examine fewer --buckets, or on a larger device") from None
        exact = TOLERANCES[precision]
        self._bounds = Bounds(
            exact=exact,
            eager=exact if isinstance(engine.launcher, CpuPlan) else EAGER_TOLERANCES[precision],
            remedy="serve with --engine eager" if precision is Precision.F32 else "serve with --precision f32",
        )

    def examine(self, told: Callable[[BucketReport], object]) -> Diagnosis:
        """Examine every captured bucket, smallest first, ``told`` of each; then the engine as a whole."""
        reports: list[BucketReport] = []
        findings: tuple[Finding, ...] = ()
        fault, examined = None, "engine"
        try:
            for bucket in self._engine.captured_ladder.buckets if self._engine.captured else ():
                examined = f"bucket {bucket.rows}"
                reports.append(self._examine(bucket))
                told(reports[-1])
            examined = "engine"
            findings = tuple(EngineChecks(self._engine, self._model.spec, np.random.default_rng(0)).findings())
        except DeviceFault as lost:
            fault = f"{examined}: device: {lost}; nothing was examined after that"
        return Diagnosis(tuple(reports), findings, fault)

    def _examine(self, bucket: Bucket) -> BucketReport:
        captured = self._engine.captured[bucket]
        (eager_slot,) = self._eager.capture(bucket)
        cases = cases_of(
            self._model.spec,
            bucket,
            np.random.default_rng(bucket.rows),
            eager=partial(self._eager_scores, eager_slot) if self._comparable else None,
            exact=partial(exact_scores, self._model),
        )
        checked = [SlotChecks(self._engine, slot, cases, self._bounds) for slot in captured.slots]
        findings = _of_all_slots([tuple(checks.findings()) for checks in checked])
        slot, request = captured.slots[0], cases.one_id[0].request
        replay, eager = self._timed(slot, eager_slot, request)
        return BucketReport(
            rows=bucket.rows,
            ids=bucket.ids,
            kernels=slot.kernels,
            nodes=slot.nodes,
            capture_ms=captured.seconds * 1e3,
            capture_mib=captured.device_bytes / 2**20,
            arena_mib=slot.arena.layout.size_bytes / 2**20,
            error=float(np.max([checks.error for checks in checked])),  # unlike max(), keeps a NaN
            eager_error=float(np.max([checks.eager_error for checks in checked])) if self._comparable else None,
            replay_us_p50=float(np.percentile(replay, 50)),
            replay_us_p99=float(np.percentile(replay, 99)),
            eager_us_p50=float(np.percentile(eager, 50)),
            findings=findings,
        )

    def _eager_scores(self, slot: Slot, request: InferRequest) -> Floats:
        slot.arena.fill([(request, 0, request.rows)])
        self._eager.launch(slot)
        return slot.scores[: request.rows].copy()

    def _timed(self, slot: Slot, eager_slot: Slot, request: InferRequest) -> list[NDArray[np.float64]]:
        """Both from a filled arena to scores that can be read, which for the eager forward includes its copies."""
        launcher = self._engine.launcher
        for filled in (slot, eager_slot):
            filled.arena.fill([(request, 0, request.rows)])

        def replay() -> None:
            launcher.launch(slot)
            launcher.wait(slot)

        return timed_us(replay, partial(self._eager.launch, eager_slot))


def _of_all_slots(findings: list[tuple[Finding, ...]]) -> tuple[Finding, ...]:
    """One finding per check: the first slot's that has a problem."""
    if len(findings) == 1:
        return findings[0]
    found: list[Finding] = []
    for same in zip(*findings, strict=True):
        problems = (f"slot {place}: {each.problem}" for place, each in enumerate(same) if each.problem is not None)
        found.append(Finding(same[0].check, next(problems, None)))
    return tuple(found)


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

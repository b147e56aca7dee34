"""The doctor finds a healthy plan healthy, and names what is wrong with each kind of broken one."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from narsil_graph.engine import doctor, engine_checks
from narsil_graph.engine.arena import Arena, RowRange
from narsil_graph.engine.calibrate import calibrated
from narsil_graph.engine.cpu_plan import CpuPlan
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.launcher import Launcher, Precision, Slot
from narsil_graph.engine.synthetic import multi_hot_request, one_hot_request
from narsil_graph.errors import Failure
from narsil_graph.model.weights import Model
from narsil_transport.admission import Admitted, ModelLimits, admit
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.messages import InferRequest
from narsil_transport.status import Refusal
from tests.engine.examined import captured, examined, problems_of
from tests.engine.tiny import MIXED, SHAPES, Shape, tiny_model

SLOT_CHECKS = ["parity", "eager", "repeat", "stale", "padding", "neighbours"]
ENGINE_CHECKS = ["capture", "interleave", "ids"]
PLAN_PRECISIONS = [Precision.F32, Precision.BF16, Precision.INT8]
Spoil = Callable[[Slot], object]


@pytest.fixture(autouse=True)
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five launches are enough where nobody reads the times."""
    monkeypatch.setattr(doctor, "TIMED_SECONDS", 0.0)


class Sabotaged(Launcher):
    """The real plan, and something done to its slots when captured and after each launch."""

    def __init__(self, model: Model, spoil: Spoil, at_capture: Spoil = lambda slot: None) -> None:
        self._plan = CpuPlan(model)
        self._spoil = spoil
        self._at_capture = at_capture

    def prepare(self, buckets: Sequence[Bucket]) -> None:
        self._plan.prepare(buckets)

    def capture(self, bucket: Bucket) -> tuple[Slot, ...]:
        slots = self._plan.capture(bucket)
        for slot in slots:
            self._at_capture(slot)
        return slots

    def launch(self, slot: Slot) -> None:
        self._plan.launch(slot)
        self._spoil(slot)


def ailing(spoil: Spoil, *, rows: tuple[int, ...] = (8,), at_capture: Spoil = lambda slot: None) -> dict[str, str]:
    """The problems, by check, that the doctor finds with a plan so spoilt."""
    model = tiny_model()
    diagnosis = examined(model, captured(model, Sabotaged(model, spoil, at_capture), rows=rows))
    assert bool(diagnosis.problems) == bool(problems_of(diagnosis))
    return problems_of(diagnosis)


@pytest.mark.parametrize("precision", PLAN_PRECISIONS, ids=lambda precision: precision.value)
@pytest.mark.parametrize("shape", [SHAPES["4 vectors"], MIXED], ids=["uniform", "mixed"])
def test_plan_is_healthy_in_every_bucket_and_arithmetic(shape: Shape, precision: Precision) -> None:
    model, rng = tiny_model(shape), np.random.default_rng(0)
    model = calibrated(model, [one_hot_request(model.spec, 64, rng), multi_hot_request(model.spec, 64, 3, rng)])
    diagnosis = examined(model, captured(model, CpuPlan(model, precision), rows=(1, 5, 80)), precision)
    assert diagnosis.problems == ()
    assert [report.rows for report in diagnosis.reports] == [1, 5, 80]
    # An eager forward has no 8-bit layers to compare with.
    checks = [check for check in SLOT_CHECKS if check != "eager" or precision is not Precision.INT8]
    for report in diagnosis.reports:
        assert [finding.check for finding in report.findings] == checks
        assert 0 <= report.error <= doctor.TOLERANCES[precision]
        assert (report.eager_error is None) == (precision is Precision.INT8)
    assert [finding.check for finding in diagnosis.findings] == ENGINE_CHECKS
    assert diagnosis.checks == 3 * len(checks) + len(ENGINE_CHECKS)


def test_report_states_times_memory_and_kernels() -> None:
    model = tiny_model()
    engine = captured(model, CpuPlan(model), rows=(8,))
    (report,) = examined(model, engine).reports
    assert report.kernels.startswith("f32 ")
    assert (report.rows, report.ids, report.nodes, report.capture_mib) == (8, 96, 0, 0)
    assert 0 < report.replay_us_p50 <= report.replay_us_p99
    assert report.eager_us_p50 > 0
    assert report.capture_ms > 0
    (slot,) = engine.captured[Bucket(8, 96)].slots
    assert report.arena_mib * 2**20 == slot.arena.layout.size_bytes


def test_unspoilt_launcher_is_healthy() -> None:
    assert ailing(lambda slot: None) == {}


def test_wrong_scores_fail_parity_and_eager_alone() -> None:
    def spoil(slot: Slot) -> None:
        slot.scores += np.float32(1e-3)

    found = ailing(spoil)
    assert list(found) == ["parity", "eager"]
    assert "1.0e-03 off float64, more than 1e-06" in found["parity"]
    assert "1.0e-03 off the eager forward, more than 1e-06" in found["eager"]


def test_problem_is_one_line_that_names_bucket_check_and_remedy() -> None:
    model = tiny_model()
    launcher = Sabotaged(model, lambda slot: slot.scores.__iadd__(np.float32(1e-3)))
    first, *_ = examined(model, captured(model, launcher, rows=(4,))).problems
    assert first == ("bucket 4: parity: scores are 1.0e-03 off float64, more than 1e-06: serve with --engine eager")


def test_scores_that_are_not_numbers_fail_parity_and_eager() -> None:
    def spoil(slot: Slot) -> None:
        slot.scores.fill(np.nan)

    assert {"parity", "eager"} <= ailing(spoil).keys()


def test_one_wrong_row_beyond_those_in_float64_fails_eager() -> None:
    def spoil(slot: Slot) -> None:
        slot.scores[70:] += np.float32(1e-3)

    found = ailing(spoil, rows=(80,))
    assert "eager" in found
    assert "parity" not in found


@pytest.mark.parametrize(
    "wrong",
    [lambda arena: arena.ids == 0, lambda arena: arena.ids == arena.bucket.ids, lambda arena: arena.offsets[-2] == 0],
    ids=["no ids", "no room left", "last bag only"],
)
def test_multi_hot_edges_fail_eager(wrong: Callable[[Arena], bool]) -> None:
    def spoil(slot: Slot) -> None:
        if not slot.arena.one_hot and slot.arena.rows == 8 and wrong(slot.arena):
            slot.scores += np.float32(1e-3)

    assert list(ailing(spoil)) == ["eager"]


def test_multi_hot_mistake_fails_parity() -> None:
    def spoil(slot: Slot) -> None:
        if not slot.arena.one_hot:
            slot.scores += np.float32(1e-3)

    assert list(ailing(spoil)) == ["parity", "eager"]


def test_leaking_padding_is_found() -> None:
    def spoil(slot: Slot) -> None:
        slot.scores[: slot.arena.rows] += slot.arena.dense[slot.arena.rows :].sum()

    found = ailing(spoil)
    assert list(found) == ["padding"]
    assert found["padding"].startswith("padding rows leak into real ones: ")


@pytest.mark.parametrize("one_hot", [True, False])
def test_leaking_padding_ids_are_found(one_hot: bool) -> None:
    def spoil(slot: Slot) -> None:
        if slot.arena.one_hot is one_hot:
            slot.scores[: slot.arena.rows] += np.float32(1e-3) * slot.arena.values[slot.arena.ids :].any()

    assert list(ailing(spoil)) == ["padding"]


def test_arena_that_keeps_an_earlier_batch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tidy_fill = Arena.fill

    def untidy_fill(arena: Arena, pieces: Iterable[RowRange]) -> None:
        last = arena.dense[-1].copy()
        tidy_fill(arena, pieces)
        if arena.rows < arena.bucket.rows:
            arena.dense[-1] = last

    def spoil(slot: Slot) -> None:
        slot.scores[: slot.arena.rows] += slot.arena.dense[slot.arena.rows :].sum()

    monkeypatch.setattr(Arena, "fill", untidy_fill)
    assert ailing(spoil)["padding"].startswith("what an earlier batch left in the arena changes the scores: ")


def test_stale_scores_are_found() -> None:
    kept: dict[bool, NDArray[np.float32]] = {}

    def spoil(slot: Slot) -> None:
        slot.scores[:] = kept.setdefault(slot.arena.one_hot, slot.scores.copy())

    assert ailing(spoil)["stale"].startswith("another input keeps scores of the one before: ")


def test_launches_that_do_not_repeat_are_found() -> None:
    launches = [0]

    def spoil(slot: Slot) -> None:
        launches[0] += 1
        slot.scores += np.float32(3e-7) * (launches[0] % 2)

    found = ailing(spoil)
    assert found["repeat"].startswith("3 launches of one input differ: ")
    assert "parity" not in found


def test_scores_that_depend_on_neighbours_are_found() -> None:
    def spoil(slot: Slot) -> None:
        slot.scores += np.float32(3e-7) * (slot.arena.rows > 1)

    found = ailing(spoil)
    assert list(found) == ["neighbours"]
    assert "among others" in found["neighbours"]


def test_scores_that_depend_on_position_are_found() -> None:
    def spoil(slot: Slot) -> None:
        slot.scores += np.float32(3e-7) * (np.arange(len(slot.scores)) % 2)

    assert list(ailing(spoil)) == ["neighbours"]


def test_buckets_that_share_their_scores_are_found() -> None:
    shared = np.zeros(8, np.float32)

    def share(slot: Slot) -> None:
        own, program = slot.scores, slot.program

        def run() -> None:
            program()
            slot.scores[:] = own

        slot.scores, slot.program = shared[: len(own)], run

    found = ailing(lambda slot: None, rows=(1, 4, 8), at_capture=share)
    assert list(found) == ["interleave"]
    assert "scores otherwise while other slots are in flight: " in found["interleave"]


def test_bucket_that_was_not_captured_is_one_finding_of_the_engine() -> None:
    model = tiny_model()
    engine = captured(model, CpuPlan(model), rows=(1, 4, 8))
    del engine.captured[engine.ladder.buckets[1]]
    diagnosis = examined(model, engine)
    assert diagnosis.problems == (
        "engine: capture: bucket 4 was not captured: capture it, or take it out of --buckets",
    )
    assert [report.rows for report in diagnosis.reports] == [1, 8]


def test_engine_without_any_bucket_has_nothing_else_to_examine() -> None:
    model = tiny_model()
    diagnosis = examined(model, Engine(CpuPlan(model), BucketLadder.from_rows((1, 4), ids_per_row=12)))
    assert [finding.check for finding in diagnosis.findings] == ["capture", "capture"]
    assert len(diagnosis.problems) == 2


def test_ids_that_admission_lets_through_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(
        request: InferRequest, *, limits: ModelLimits, now_ns: int, route: object
    ) -> Admitted | Refusal | None:
        answer = admit(request, limits=limits, now_ns=now_ns, route=route)
        return None if isinstance(answer, Refusal) and "'f1'" in answer.detail else answer

    monkeypatch.setattr(engine_checks, "admit", careless)
    assert ailing(lambda slot: None) == {
        "ids": "id -1 of feature 'f1' would reach the device: refuse it when a request is admitted"
    }


def test_engine_that_scores_otherwise_after_refusals_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = [0]

    def counted(request: InferRequest, *, limits: ModelLimits, now_ns: int, route: object) -> Admitted | Refusal:
        refused[0] += 1
        return admit(request, limits=limits, now_ns=now_ns, route=route)

    def spoil(slot: Slot) -> None:
        slot.scores += np.float32(refused[0])

    monkeypatch.setattr(engine_checks, "admit", counted)
    found = ailing(spoil)
    assert list(found) == ["ids"]
    assert found["ids"].startswith("after refusals the engine scores otherwise: ")


def test_device_without_room_for_the_weights_twice_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model = tiny_model()
    engine = captured(model, CpuPlan(model), rows=(1,))
    monkeypatch.setattr(doctor, "EagerForward", full)
    with pytest.raises(Failure, match="the doctor needs 0 MiB more than the graphs do"):
        examined(model, engine)

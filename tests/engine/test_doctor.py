"""The doctor finds a healthy plan healthy, and names what is wrong with each kind of broken one."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from narsil_graph.engine import doctor
from narsil_graph.engine.arena import Arena, RowRange
from narsil_graph.engine.calibrate import calibrated
from narsil_graph.engine.cpu_plan import CpuPlan
from narsil_graph.engine.doctor import BucketReport, Doctor
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.launcher import Launcher, Precision, Slot
from narsil_graph.engine.synthetic import multi_hot_request, one_hot_request
from narsil_graph.model.weights import Model
from narsil_transport.buckets import Bucket, BucketLadder
from tests.engine.tiny import MIXED, SHAPES, Shape, tiny_model

CHECKS = ["parity", "repeat", "padding", "neighbours", "stale"]
Spoil = Callable[[Slot], None]


@pytest.fixture(autouse=True)
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five launches are enough where nobody reads the times."""
    monkeypatch.setattr(doctor, "TIMED_SECONDS", 0.0)


class Sabotaged:
    """The real plan, and something done to its scores after each launch."""

    def __init__(self, model: Model, spoil: Spoil) -> None:
        self._plan = CpuPlan(model)
        self._spoil = spoil

    def capture(self, bucket: Bucket) -> Slot:
        return self._plan.capture(bucket)

    def launch(self, slot: Slot) -> None:
        self._plan.launch(slot)
        self._spoil(slot)

    def ready(self, slot: Slot) -> bool:
        return self._plan.ready(slot)

    def scores(self, slot: Slot) -> NDArray[np.float32]:
        return self._plan.scores(slot)


def examined(
    model: Model, launcher: Launcher, *, rows: tuple[int, ...] = (8,), precision: Precision = Precision.F32
) -> list[BucketReport]:
    ladder = BucketLadder.from_rows(rows, ids_per_row=4 * len(model.spec.sparse_features))
    engine = Engine(launcher, ladder)
    engine.capture(lambda *_: None)
    return list(Doctor(model, engine, precision).reports())


def ailing(spoil: Spoil) -> dict[str, str]:
    """The problems, by check, that the doctor finds with a plan so spoilt."""
    model = tiny_model()
    (report,) = examined(model, Sabotaged(model, spoil))
    found = {finding.check: finding.problem for finding in report.findings if finding.problem is not None}
    assert report.healthy == (not found)
    return found


@pytest.mark.parametrize("precision", list(Precision), ids=lambda precision: precision.value)
@pytest.mark.parametrize("shape", [SHAPES["4 vectors"], MIXED], ids=["uniform", "mixed"])
def test_plan_is_healthy_in_every_bucket_and_arithmetic(shape: Shape, precision: Precision) -> None:
    model, rng = tiny_model(shape), np.random.default_rng(0)
    model = calibrated(model, [one_hot_request(model.spec, 64, rng), multi_hot_request(model.spec, 64, 3, rng)])
    reports = examined(model, CpuPlan(model, precision), rows=(1, 5, 80), precision=precision)
    assert [report.rows for report in reports] == [1, 5, 80]
    for report in reports:
        assert [(finding.check, finding.problem) for finding in report.findings] == [(name, None) for name in CHECKS]
        assert report.healthy
        assert 0 <= report.error <= doctor.TOLERANCES[precision]


def test_report_states_times_memory_and_kernels() -> None:
    model = tiny_model()
    (report,) = examined(model, CpuPlan(model))
    assert report.kernels.startswith("f32 ")
    assert 0 < report.replay_us_p50 <= report.replay_us_p99
    assert report.eager_us_p50 > 0
    # 8 rows: 3 dense floats each, 12 ids each, and 4 bags each with one offset more.
    assert report.arena_mib * 2**20 == 4 * (8 * 3 + 8 * 12 + 8 * 4 + 1)


def test_unspoilt_launcher_is_healthy() -> None:
    assert ailing(lambda slot: None) == {}


def test_wrong_scores_fail_parity_alone() -> None:
    def spoil(slot: Slot) -> None:
        slot.scores += np.float32(1e-3)

    found = ailing(spoil)
    assert list(found) == ["parity"]
    assert "1.0e-03 off float64" in found["parity"]


def test_scores_that_are_not_numbers_fail_parity() -> None:
    def spoil(slot: Slot) -> None:
        slot.scores.fill(np.nan)

    assert "parity" in ailing(spoil)


def test_one_wrong_row_fails_parity() -> None:
    def spoil(slot: Slot) -> None:
        slot.scores[-1] += np.float32(1e-3)

    assert "parity" in ailing(spoil)


def test_multi_hot_mistake_fails_parity() -> None:
    def spoil(slot: Slot) -> None:
        if not slot.arena.one_hot:
            slot.scores += np.float32(1e-3)

    assert list(ailing(spoil)) == ["parity"]


def test_leaking_padding_is_found() -> None:
    def spoil(slot: Slot) -> None:
        slot.scores[: slot.arena.rows] += slot.arena.dense[slot.arena.rows :].sum()

    assert ailing(spoil) == {"padding": "padding rows leak into real ones"}


def test_leaking_padding_ids_are_found() -> None:
    def spoil(slot: Slot) -> None:
        slot.scores[: slot.arena.rows] += np.float32(1e-3) * slot.arena.values[slot.arena.ids :].any()

    assert ailing(spoil) == {"padding": "padding rows leak into real ones"}


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
    assert ailing(spoil)["padding"] == "what an earlier batch left in the arena changes the scores"


def test_stale_scores_are_found() -> None:
    kept: list[NDArray[np.float32]] = []

    def spoil(slot: Slot) -> None:
        kept.append(slot.scores.copy())
        slot.scores[:] = kept[0]

    found = ailing(spoil)
    assert found["stale"] == "another input gives the same scores"


def test_launches_that_do_not_repeat_are_found() -> None:
    launches = [0]

    def spoil(slot: Slot) -> None:
        launches[0] += 1
        slot.scores += np.float32(3e-7) * (launches[0] % 2)

    found = ailing(spoil)
    assert found["repeat"] == "two launches of one input differ"
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

"""Where every kernel depends on a row's place, float32 runs row by row and the lower precisions decline."""

import numpy as np
import pytest
import torch

from narsil_graph.engine.cpu_dense import DenseChain
from narsil_graph.engine.cpu_pipeline import Pipeline, PositionDependent
from narsil_graph.engine.cpu_plan import CpuPlan
from narsil_graph.engine.exact import exact_scores
from narsil_graph.engine.launcher import Precision
from narsil_graph.engine.pick import Candidate
from narsil_graph.engine.scratch import Scratch
from narsil_graph.engine.synthetic import one_hot_request
from narsil_transport.buckets import Bucket
from tests.engine.tiny import tiny_model

ROWS = 5


@pytest.fixture
def no_kernel_is_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dense chain offers one kernel, which tells rows apart by their place."""

    def tell_places(self: DenseChain, source: torch.Tensor, target: torch.Tensor) -> list[Candidate]:
        places = torch.arange(len(target), dtype=target.dtype)[:, None]
        return [Candidate("tells places", lambda: target.copy_(places.expand_as(target)))]

    monkeypatch.setattr(DenseChain, "candidates", tell_places)


@pytest.mark.usefixtures("no_kernel_is_blind")
def test_float32_then_runs_row_by_row_and_is_right_wherever_a_row_lies() -> None:
    model = tiny_model()
    plan = CpuPlan(model)
    (slot,) = plan.capture(Bucket(ROWS, 64 * ROWS))
    assert slot.kernels.split("/")[0] == "f32 row by row" and slot.kernels.endswith("/row by row")
    request = one_hot_request(model.spec, ROWS, np.random.default_rng(0))
    slot.arena.fill([(request, 0, ROWS)])
    plan.launch(slot)
    together = slot.scores.copy()
    assert np.abs(together - exact_scores(model, request)).max() < 1e-6
    slot.arena.fill([(request, 2, ROWS), (request, 0, 2)])
    plan.launch(slot)
    assert slot.scores.tobytes() == np.roll(together, -2).tobytes()


@pytest.mark.usefixtures("no_kernel_is_blind")
def test_bfloat16_then_leaves_the_bucket_to_float32() -> None:
    model = tiny_model()
    (slot,) = CpuPlan(model, Precision.BF16).capture(Bucket(ROWS, 64 * ROWS))
    assert slot.kernels.startswith("f32 row by row")
    with pytest.raises(PositionDependent, match="every bf16 kernel for 5 rows depends on where a row lies"):
        Pipeline(model, Precision.BF16, Scratch()).bind(slot.arena, torch.zeros(ROWS))

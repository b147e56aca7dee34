"""A real TorchRec archive, imported, scores what TorchRec itself scored, to the last bit where kernels are the same."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from narsil_graph.engine.cpu_plan import CpuPlan
from narsil_graph.engine.eager import EagerForward
from narsil_graph.engine.exact import exact_scores
from narsil_graph.engine.launcher import Launcher
from narsil_graph.model.torchrec.importer import import_archive
from narsil_graph.model.weights import Model
from narsil_transport.buckets import Bucket
from narsil_transport.messages import InferRequest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ARCHIVE, GOLDEN = DATA / "torchrec_int8.pt", DATA / "torchrec_int8.golden.npz"
pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason=f"no golden archive at {DATA}")
BUCKETS = pytest.mark.parametrize("padding", [(0, 0), (27, 700)], ids=["exact bucket", "padded bucket"])


@dataclass(frozen=True, slots=True)
class Golden:
    """What TorchRec was asked (multi-hot, with empty bags) and what it answered."""

    model: Model
    request: InferRequest
    scores: NDArray[np.float32]


@pytest.fixture(scope="module")
def golden() -> Golden:
    stored = np.load(GOLDEN)
    dense, lengths, values = stored["float_features"], stored["lengths"], stored["values"]
    model, rows = import_archive(ARCHIVE), len(dense)
    features = len(model.spec.sparse_features)
    # TorchRec's KeyedJaggedTensor is key-major: all bags of the first feature, then all of the second.
    bags = np.array([*np.split(values, np.cumsum(lengths)[:-1]), None], object)[:-1].reshape(features, rows)
    request = InferRequest(
        request_id=0,
        model="",
        deadline_us=None,
        traceparent=None,
        dense=dense,
        ids=None,
        lengths=np.ascontiguousarray(lengths.reshape(features, rows).T),
        values=np.concatenate(bags.T.ravel().tolist()),
    )
    return Golden(model, request, stored["scores"])


def difference(launcher: Launcher, golden: Golden, padding: tuple[int, int]) -> float:
    """The largest difference from TorchRec's scores in a bucket with this much room for more rows and ids."""
    assert golden.request.values is not None
    bucket = Bucket(golden.request.rows + padding[0], len(golden.request.values) + padding[1])
    (slot,) = launcher.capture(bucket)
    slot.arena.fill([(golden.request, 0, golden.request.rows)])
    launcher.launch(slot)
    return float(np.abs(launcher.scores(slot)[: golden.request.rows] - golden.scores).max())


@BUCKETS
def test_eager_forward_reproduces_every_bit(golden: Golden, padding: tuple[int, int]) -> None:
    assert difference(EagerForward(golden.model), golden, padding) == 0.0


@BUCKETS
def test_plan_reproduces_the_scores(golden: Golden, padding: tuple[int, int]) -> None:
    assert difference(CpuPlan(golden.model), golden, padding) <= 1e-6


def test_exact_forward_reproduces_the_scores(golden: Golden) -> None:
    assert np.abs(exact_scores(golden.model, golden.request) - golden.scores).max() <= 1e-6


def test_golden_scores_would_show_an_error(golden: Golden) -> None:
    assert golden.request.lengths is not None
    assert (golden.request.lengths == 0).any()
    assert golden.request.lengths.max() > 1
    assert np.ptp(golden.scores) > 0.1

"""What the tests on a real device share: a captured engine, and the scores of requests by it."""

import numpy as np
from numpy.typing import NDArray

from narsil_graph.engine import fbgemm
from narsil_graph.engine.cuda_device import CudaDevice
from narsil_graph.engine.cuda_graph import CudaGraphs
from narsil_graph.engine.cuda_support import require_cuda
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.exact import exact_scores
from narsil_graph.engine.graph_options import GraphOptions
from narsil_graph.engine.launcher import Precision
from narsil_graph.model.weights import Model
from narsil_graph.start_check import TOLERANCES
from narsil_transport.buckets import BucketLadder
from narsil_transport.wire import InferRequest

PLAIN = GraphOptions()
POISON_ID = 2**31 - 1


def prepared(model: Model, options: GraphOptions = PLAIN, *, rows: tuple[int, ...] = (2, 8)) -> Engine:
    """Nothing captured yet; room for three ids per feature."""
    require_cuda()
    fbgemm.load_library()
    ladder = BucketLadder.from_rows(rows, ids_per_row=3 * len(model.spec.sparse_features))
    engine = Engine(CudaGraphs(model, CudaDevice(), options), ladder)
    engine.prepare()
    return engine


def captured(model: Model, options: GraphOptions = PLAIN, *, rows: tuple[int, ...] = (2, 8)) -> Engine:
    engine = prepared(model, options, rows=rows)
    for bucket in reversed(engine.ladder.buckets):
        engine.capture(bucket)
    return engine


def problems_of(engine: Engine) -> list[str]:
    """What the launcher finds wrong with any slot."""
    slots = [slot for captured in engine.captured.values() for slot in captured.slots]
    findings = [finding for slot in slots for finding in engine.launcher.examine(slot)]
    return [finding.problem for finding in findings if finding.problem is not None]


def assert_exact(
    scores: NDArray[np.float32], model: Model, *batch: InferRequest, precision: Precision = Precision.F32
) -> None:
    """The model's scores in float64, as near as a server asks for when it starts."""
    exact = np.concatenate([exact_scores(model, request) for request in batch])
    assert np.abs(scores - exact).max() <= TOLERANCES[precision]

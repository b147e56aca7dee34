"""Scoring in this process: the server's own batcher, engine and scatter, without the wire."""

import numpy as np
from numpy.typing import NDArray

from narsil_graph.build import EngineConfig, build_engine
from narsil_graph.engine.launcher import Precision
from narsil_graph.engine.scatter import Scatter
from narsil_graph.features_file import admitted
from narsil_graph.model.weights import Model
from narsil_transport.batcher import Batcher, Mode
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.wire import InferRequest

BUCKET_ROWS_MAX = 512


def score(
    model: Model, request: InferRequest, *, engine: str, device: str, precision: Precision
) -> NDArray[np.float32]:
    """Scores f4 [n] of ``request``; a Failure if a server would refuse it."""
    entered = admitted(model.spec, request)
    features = len(model.spec.sparse_features)
    longest = features if entered.row_offsets is None else int(np.diff(entered.row_offsets).max())
    config = EngineConfig(
        device=device,
        engine=engine,
        precision=precision,
        bucket_rows=(min(entered.rows, BUCKET_ROWS_MAX),),
        ids_per_row=max(longest, features),
    )
    built = build_engine(model, config)
    built.capture_all(lambda bucket, captured: None)
    # Of one bucket, whose cost decides nothing.
    cost = CostModel({bucket: LaunchCost(1, 1) for bucket in built.ladder.buckets})
    batcher = Batcher(ladder=built.ladder, cost=cost, mode=Mode.BATCH, queue_rows_max=entered.rows)
    scatter = Scatter()
    batcher.add(entered)
    while batch := batcher.take(0):
        launched = built.run(batch.bucket, [(piece.admitted.request, piece.begin, piece.end) for piece in batch.pieces])
        for finished in scatter.split(batch, launched.scores):
            return finished.scores
    raise AssertionError("the batcher gives out every row that it took")

"""Requests for captured graphs and the scores that they give, on the tape and on a real device alike."""

import numpy as np
from numpy.typing import NDArray

from narsil_graph.engine.cuda_graph import GraphSlot
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.synthetic import multi_hot_request, one_hot_request
from narsil_graph.model.weights import Model
from narsil_transport.wire import InferRequest


def requests(model: Model, *, seed: int = 1) -> tuple[InferRequest, InferRequest]:
    """Four rows of one id per feature, and three of bags of up to three."""
    rng = np.random.default_rng(seed)
    return one_hot_request(model.spec, 4, rng), multi_hot_request(model.spec, 3, 3, rng)


def scores_of(engine: Engine, *batch: InferRequest, bucket: int = -1) -> NDArray[np.float32]:
    pieces = [(request, 0, request.rows) for request in batch]
    rows = sum(request.rows for request in batch)
    return engine.run(engine.ladder.buckets[bucket], pieces).scores[:rows].copy()


def slots_of(engine: Engine, bucket: int = -1) -> list[GraphSlot]:
    slots = engine.captured[engine.ladder.buckets[bucket]].slots
    return [slot for slot in slots if isinstance(slot, GraphSlot)]

"""Finding the range of every layer's input, which int8 dense layers need."""

import dataclasses

import numpy as np

from narsil_graph.engine.exact import exact_layer_inputs
from narsil_graph.model.weights import Model
from narsil_transport.wire import InferRequest


def calibrated(model: Model, samples: list[InferRequest]) -> Model:
    """``model`` with the activation ranges seen on ``samples``, in a single pass of the float64 forward."""
    low = high = None
    for request in samples:
        inputs = exact_layer_inputs(model, request)
        lows, highs = np.array([x.min() for x in inputs]), np.array([x.max() for x in inputs])
        low = lows if low is None else np.minimum(low, lows)
        high = highs if high is None else np.maximum(high, highs)
    if low is None or high is None:
        raise ValueError("calibration needs at least one request")
    ranges = tuple(zip(low.tolist(), high.tolist(), strict=True))
    return dataclasses.replace(model, spec=dataclasses.replace(model.spec, activation_ranges=ranges))

"""The forward in float64 from the stored bytes: what every engine's scores are measured against."""

import numpy as np
from numpy.typing import NDArray

from narsil_graph.model.rows import dequantise
from narsil_graph.model.spec import Pooling
from narsil_graph.model.weights import LinearLayer, Model
from narsil_transport.wire import InferRequest

Float64s = NDArray[np.float64]


def exact_scores(model: Model, request: InferRequest) -> Float64s:
    """Scores f8 [n] of ``request``, computed with numpy alone."""
    logits = _linear(model.over_layers[-1], exact_layer_inputs(model, request)[-1])[:, 0]
    scores: Float64s = 1.0 / (1.0 + np.exp(-logits))
    return scores


def exact_layer_inputs(model: Model, request: InferRequest) -> list[Float64s]:
    """The input f8 [n, in] of every layer, the dense arch first."""
    inputs = [request.dense.astype(np.float64)]
    for layer in model.dense_layers:
        inputs.append(np.maximum(_linear(layer, inputs[-1]), 0.0))
    bottom = inputs.pop()
    vectors = np.concatenate([bottom[:, None], _pooled(model, request)], axis=1)
    products = vectors @ vectors.transpose(0, 2, 1)
    left, right = np.triu_indices(model.spec.vectors, 1)
    inputs.append(np.concatenate([bottom, products[:, left, right]], axis=1))
    for layer in model.over_layers[:-1]:
        inputs.append(np.maximum(_linear(layer, inputs[-1]), 0.0))
    return inputs


def _linear(layer: LinearLayer, x: Float64s) -> Float64s:
    out: Float64s = x @ layer.weight.T.astype(np.float64) + layer.bias
    return out


def _pooled(model: Model, request: InferRequest) -> Float64s:
    """f8 [n, T, dim]: each feature's bag of rows, summed or averaged."""
    spec = model.spec
    lengths, values = _bags(request)
    pooled = np.zeros((request.rows, len(spec.sparse_features), spec.dim))
    row_of_value = np.repeat(np.arange(request.rows), lengths.sum(axis=1))
    feature_of_value = np.repeat(np.tile(np.arange(lengths.shape[1]), request.rows), lengths.ravel())
    for number, (feature, table) in enumerate(zip(spec.sparse_features, spec.feature_tables, strict=True)):
        mine = feature_of_value == number
        rows = dequantise(model.table_rows(feature.table)[values[mine]], table.format).astype(np.float64)
        np.add.at(pooled[:, number], row_of_value[mine], rows)
        if table.pooling is Pooling.MEAN:
            pooled[:, number] /= np.maximum(lengths[:, number], 1)[:, None]
    return pooled


def _bags(request: InferRequest) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    if request.ids is not None:
        return np.ones(request.ids.shape, np.int64), request.ids.ravel()
    assert request.lengths is not None and request.values is not None
    return request.lengths, request.values

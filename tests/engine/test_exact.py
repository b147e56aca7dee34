"""The float64 forward, on a model small enough to work out by hand, and the calibration that it feeds."""

import dataclasses

import numpy as np
import pytest

from narsil_graph.engine.calibrate import calibrated
from narsil_graph.engine.exact import exact_layer_inputs, exact_scores
from narsil_graph.model.spec import ModelSpec, Pooling, RowFormat, SparseFeature, TableSpec
from narsil_graph.model.weights import LinearLayer, Model
from tests.engine.tiny import multi_hot, one_hot, tiny_model

TABLES = np.array([[[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 4]], [[1, 1, 0, 0], [0, 0, 3, 0], [2, 0, 0, 1]]], np.float32)


def by_hand(pooling: Pooling = Pooling.SUM) -> Model:
    """Dense x -> [x, -x, 1, 0] after ReLU; logit = first dense value + 10 d01 + 100 d02 + 1000 d12."""
    spec = ModelSpec(
        name="by hand",
        dense_features=("x",),
        tables=(TableSpec("a", 3, 4, RowFormat.FP32), TableSpec("b", 3, 4, RowFormat.FP32, pooling)),
        sparse_features=(SparseFeature("fb", "b"), SparseFeature("fa", "a")),
        dense_arch=(4,),
        over_arch=(1,),
    )
    return Model(
        spec=spec,
        rows={RowFormat.FP32: TABLES.reshape(6, 4).view(np.uint8)},
        dense_layers=(LinearLayer(np.array([[1], [-1], [0], [0]], np.float32), np.array([0, 0, 1, 0], np.float32)),),
        over_layers=(LinearLayer(np.array([[1, 0, 0, 0, 10, 100, 1000]], np.float32), np.array([-1], np.float32)),),
    )


def test_one_hot_scores_are_those_worked_out_by_hand() -> None:
    # Row 0: dense [2, 0, 1, 0], b row 1 [0, 0, 3, 0], a row 0 [1, 0, 0, 0]: dots 3, 2, 0, so 2 + 30 + 200 - 1.
    # Row 1: dense [0, 1, 1, 0], b row 0 [1, 1, 0, 0], a row 1 [0, 2, 0, 0]: dots 1, 2, 2, so 0 + 10 + 200 + 2000 - 1.
    request = one_hot(np.array([[2], [-1]], np.float32), np.array([[1, 0], [0, 1]], np.int32))
    inputs = exact_layer_inputs(by_hand(), request)
    assert inputs[0].tolist() == [[2], [-1]]
    assert inputs[1].tolist() == [[2, 0, 1, 0, 3, 2, 0], [0, 1, 1, 0, 1, 2, 2]]


@pytest.mark.parametrize(("pooling", "dots"), [(Pooling.SUM, [6, 0, 4]), (Pooling.MEAN, [2, 0, 4 / 3])])
def test_bags_are_pooled_as_the_table_says(pooling: Pooling, dots: list[float]) -> None:
    # b rows 1, 2, 0 sum to [3, 1, 3, 1]; a rows 2 is [0, 0, 0, 4]; dense is [1, 0, 1, 0].
    request = multi_hot(np.array([[1]], np.float32), [[[1, 2, 0], [2]]])
    assert exact_layer_inputs(by_hand(pooling), request)[-1][0, 4:] == pytest.approx(dots)


def test_empty_bag_pools_to_zero() -> None:
    request = multi_hot(np.array([[1], [1]], np.float32), [[[], []], [[1], []]])
    assert exact_layer_inputs(by_hand(Pooling.MEAN), request)[-1][:, 4:].tolist() == [[0, 0, 0], [3, 0, 0]]


def test_score_is_the_sigmoid_of_the_logit() -> None:
    request = multi_hot(np.array([[1.5]], np.float32), [[[], []]])
    assert exact_scores(by_hand(), request) == pytest.approx([1 / (1 + np.exp(-0.5))], abs=1e-15)


def test_calibration_states_the_range_of_every_layer_over_all_samples() -> None:
    samples = [
        one_hot(np.array([[2]], np.float32), np.array([[1, 0]], np.int32)),
        one_hot(np.array([[-1]], np.float32), np.array([[0, 1]], np.int32)),
    ]
    model = by_hand()
    ranges = calibrated(model, samples).spec.activation_ranges
    assert ranges == ((-1.0, 2.0), (0.0, 3.0))


def test_calibration_changes_nothing_but_the_ranges() -> None:
    model = tiny_model()
    request = one_hot(np.ones((2, 3), np.float32), np.zeros((2, 3), np.int32))
    found = calibrated(model, [request])
    assert dataclasses.replace(found.spec, activation_ranges=()) == model.spec
    assert found.rows is model.rows
    assert found.dense_layers is model.dense_layers
    assert len(found.spec.activation_ranges) == 4


def test_calibration_on_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one request"):
        calibrated(tiny_model(), [])

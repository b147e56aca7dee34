"""How far scores are off where rows lost bits, and which two models may be compared."""

import dataclasses

import numpy as np
import pytest

from narsil_graph.engine.exact import exact_scores
from narsil_graph.engine.row_error import row_error
from narsil_graph.engine.synthetic import one_hot_request
from narsil_graph.errors import Failure
from narsil_graph.model.requantise import with_rows
from narsil_graph.model.spec import RowFormat
from narsil_graph.model.weights import LinearLayer, Model
from tests.engine.tiny import FP16, FP32, INT4, INT8, SHAPES, tiny_model

ORIGINAL = tiny_model(SHAPES["fp32"])


def error_of(model: Model, seed: int = 0) -> float:
    return row_error(model, ORIGINAL, np.random.default_rng(seed))


def scaled(layer: LinearLayer) -> LinearLayer:
    return LinearLayer(layer.weight * np.float32(2), layer.bias)


def test_original_differs_from_itself_by_nothing() -> None:
    assert error_of(ORIGINAL) == 0.0


def test_fewer_bits_are_further_off() -> None:
    fp16, int8, int4 = (error_of(with_rows(ORIGINAL, row_format)) for row_format in (FP16, INT8, INT4))
    assert 0.0 < fp16 < int8 < int4 < 0.5


def test_error_is_at_least_that_of_each_row_of_the_first_request() -> None:
    made = with_rows(ORIGINAL, INT4)
    request = one_hot_request(ORIGINAL.spec, 256, np.random.default_rng(5))
    worst = np.abs(exact_scores(made, request) - exact_scores(ORIGINAL, request)).max()
    assert error_of(made, seed=5) >= worst > 0.0


def test_bags_are_looked_up_too() -> None:
    # Without its rows a model is further off where a bag holds three of them than where it holds one.
    made = with_rows(ORIGINAL, FP32)
    rows = made.rows[FP32].copy()
    rows.view(np.float32)[:] = 0.0
    silent = dataclasses.replace(made, rows={FP32: rows})
    request = one_hot_request(ORIGINAL.spec, 256, np.random.default_rng(0))
    one_hot_worst = np.abs(exact_scores(silent, request) - exact_scores(ORIGINAL, request)).max()
    assert error_of(silent) > one_hot_worst


def test_one_seed_gives_one_error() -> None:
    made = with_rows(ORIGINAL, INT4)
    assert error_of(made) == error_of(made)


def test_mixed_formats_are_compared_with_their_original() -> None:
    mixed = tiny_model(SHAPES["mixed formats"])
    assert row_error(mixed, with_rows(mixed, FP32), np.random.default_rng(0)) == 0.0


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (tiny_model(SHAPES["mean"]), "tables$"),
        (tiny_model(SHAPES["3 vectors"]), "tables, sparse_features$"),
        (tiny_model(SHAPES["one layer each"]), "dense_arch, over_arch$"),
        (
            dataclasses.replace(ORIGINAL, over_layers=tuple(map(scaled, ORIGINAL.over_layers))),
            "weights of the over layers$",
        ),
        (
            dataclasses.replace(ORIGINAL, dense_layers=tuple(map(scaled, ORIGINAL.dense_layers))),
            "weights of the dense layers$",
        ),
    ],
    ids=["pooling", "features", "widths", "over weights", "dense weights"],
)
def test_models_that_differ_in_more_are_refused_by_what_differs(other: Model, words: str) -> None:
    with pytest.raises(Failure, match=f"differ in more than their rows: .*{words}"):
        error_of(other)


@pytest.mark.parametrize("row_format", list(RowFormat))
def test_formats_are_not_a_difference(row_format: RowFormat) -> None:
    assert error_of(with_rows(ORIGINAL, row_format)) < 0.5

"""What storing rows in fewer bits does to the scores. The stored rows alone cannot tell: it takes the original."""

import dataclasses

import numpy as np

from narsil_graph.engine.exact import exact_scores
from narsil_graph.engine.synthetic import multi_hot_request, one_hot_request
from narsil_graph.errors import Failure
from narsil_graph.model.spec import ModelSpec, RowFormat
from narsil_graph.model.weights import LinearLayer, Model

ONE_HOT_ROWS, MULTI_HOT_ROWS, IDS_PER_BAG_MAX = 256, 64, 3


def row_error(model: Model, original: Model, rng: np.random.Generator) -> float:
    """The largest difference between the float64 scores of ``model`` and ``original`` on random rows from ``rng``.

    Raises Failure where the two differ in anything but how their rows are stored.
    """
    check_same_but_rows(model, original)
    requests = (
        one_hot_request(model.spec, ONE_HOT_ROWS, rng),
        multi_hot_request(model.spec, MULTI_HOT_ROWS, IDS_PER_BAG_MAX, rng),
    )
    # numpy's max, unlike max(), keeps a NaN.
    return float(np.max([np.abs(exact_scores(model, r) - exact_scores(original, r)).max() for r in requests]))


def check_same_but_rows(model: Model, original: Model) -> None:
    """Raise Failure where the specifications but for row formats, or the layers, are not the same."""
    ours, theirs = _without_formats(model.spec).to_dict(), _without_formats(original.spec).to_dict()
    differing = [field for field, value in ours.items() if value != theirs[field]]
    for arch, layers, others in (
        ("dense", model.dense_layers, original.dense_layers),
        ("over", model.over_layers, original.over_layers),
    ):
        if not differing and not _equal(layers, others):
            differing.append(f"the weights of the {arch} layers")
    if differing:
        raise Failure(
            f"{model.spec.name} {model.version} and {original.spec.name} {original.version} "
            f"differ in more than their rows: {', '.join(differing)}"
        )


def _without_formats(spec: ModelSpec) -> ModelSpec:
    tables = tuple(dataclasses.replace(table, format=RowFormat.FP32) for table in spec.tables)
    return dataclasses.replace(spec, tables=tables)


def _equal(layers: tuple[LinearLayer, ...], others: tuple[LinearLayer, ...]) -> bool:
    return all(
        np.array_equal(layer.weight, other.weight) and np.array_equal(layer.bias, other.bias)
        for layer, other in zip(layers, others, strict=True)
    )

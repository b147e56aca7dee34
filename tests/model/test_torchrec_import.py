"""An imported model scores what the archive's own forward would: checked on archives written here, and on a real one
(with its golden scores beside it) where there is one."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from narsil_graph.model.rows import dequantise
from narsil_graph.model.spec import Pooling, RowFormat
from narsil_graph.model.torchrec import import_archive
from narsil_graph.model.torchrec.archive import open_archive
from narsil_graph.model.torchrec.graph import read_graph
from narsil_graph.model.torchrec.pickled import Record
from narsil_graph.model.weights import Model
from tests.model.torchrec_archives import Draft, Module, Shape, draft

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Layers = Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]]
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "torchrec_int8.pt"
needs_real_archive = pytest.mark.skipif(not REAL.exists(), reason="no real archive lies beside this checkout")
BATCH = 9
SHAPES = {
    "sharded": Shape(),
    "quantised": Shape(sharded=False),
    "sharded, other key order": Shape(keys=("f2", "f0", "f1")),
    "quantised, other key order": Shape(sharded=False, keys=("f2", "f0", "f1")),
    "three orders of features": Shape(sharded=False, keys=("f2", "f0", "f1"), dots=("f1", "f2", "f0")),
    "a table of two features": Shape(
        features=(("f0", "f3"), ("f1",), ("f2",)), keys=("f3", "f1", "f0", "f2"), dots=("f0", "f1", "f2", "f3")
    ),
    "mean": Shape(pooling=Pooling.MEAN),
    "int4": Shape(sharded=False, formats=(RowFormat.INT4,) * 3),
    "fp16": Shape(sharded=False, formats=(RowFormat.FP16,) * 3, dim=4),
    "fp32": Shape(formats=(RowFormat.FP32,) * 3),
    "mixed formats": Shape(sharded=False, formats=(RowFormat.INT8, RowFormat.FP32, RowFormat.INT4), dim=12),
    "one table, one dense feature": Shape(
        table_rows=(9,), features=(("f0",),), keys=("f0",), dots=("f0",), formats=(RowFormat.INT8,), dense_in=1
    ),
    "deep": Shape(dense_hidden=(20, 16, 14, 12), over_hidden=(20, 15, 12, 9, 7, 5)),
    "shallow": Shape(dense_hidden=(), over_hidden=(4,)),
}


def dlrm(dense: Floats, vectors: Sequence[Floats], dense_layers: Layers, over_layers: Layers) -> Floats:
    """The scores [batch] of a DLRM in float64, given the pooled vectors [batch, dim] in order of interaction."""
    x = dense
    for weight, bias in dense_layers:
        x = np.maximum(x @ weight.T.astype(float) + bias, 0)
    stacked = np.stack([x, *vectors], axis=1)
    rows, columns = np.triu_indices(stacked.shape[1], 1)
    x = np.concatenate([x, (stacked @ stacked.transpose(0, 2, 1))[:, rows, columns]], axis=1)
    *hidden, (weight, bias) = over_layers
    for hidden_weight, hidden_bias in hidden:
        x = np.maximum(x @ hidden_weight.T.astype(float) + hidden_bias, 0)
    return np.asarray(1 / (1 + np.exp(-(x @ weight.T.astype(float) + bias)[:, 0])))


def pooled(table: NDArray[np.float32], lengths: Ids, values: Ids, pooling: Pooling) -> Floats:
    """The pooled bags [batch, dim] of one feature."""
    out = np.zeros((len(lengths), table.shape[1]))
    for bag, ids in zip(out, np.split(values, np.cumsum(lengths)[:-1]), strict=True):
        bag += table[ids].sum(axis=0, dtype=float) / (max(len(ids), 1) if pooling is Pooling.MEAN else 1)
    return out


def by_feature(lengths: Ids, values: Ids, features: int) -> list[tuple[Ids, Ids]]:
    per_feature = lengths.reshape(features, -1)
    return list(zip(per_feature, np.split(values, np.cumsum(per_feature.sum(axis=1))[:-1]), strict=True))


def model_scores(model: Model, dense: Floats, lengths: Ids, values: Ids) -> Floats:
    """What the imported model means."""
    vectors = [
        pooled(dequantise(model.table_rows(table.name), table.format), *bags, table.pooling)
        for table, bags in zip(
            model.spec.feature_tables, by_feature(lengths, values, len(model.spec.sparse_features)), strict=True
        )
    ]
    layers = ([(layer.weight, layer.bias) for layer in part] for part in (model.dense_layers, model.over_layers))
    return dlrm(dense, vectors, *layers)


def draft_scores(shape: Shape, made: Draft, dense: Floats, lengths: Ids, values: Ids) -> Floats:
    """What the archive means, by its own order of features."""
    bags = dict(zip(shape.keys, by_feature(lengths, values, len(shape.keys)), strict=True))
    vectors = []
    for name in shape.dots:
        table = next(index for index, names in enumerate(shape.features) if name in names)
        vectors.append(pooled(made.tables[f"t_{table}"], *bags[name], shape.pooling))
    tree = made.root.state["_module"].state
    over = tree["over_arch"].state["model"].state
    over_layers = [*mlp_layers(over["0"]), (over["1"].state["weight"], over["1"].state["bias"])]
    return dlrm(dense, vectors, mlp_layers(tree["dense_arch"].state["model"]), over_layers)


def mlp_layers(part: Module) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    layers = [layer for layer in part.state["_mlp"].state.values() if isinstance(layer, Module)]
    linears: list[dict[str, Any]] = [layer.state["_linear"].state for layer in layers]
    return [(linear["weight"], linear["bias"]) for linear in linears]


def request(shape: Shape) -> tuple[Floats, Ids, Ids]:
    rng = np.random.default_rng(3)
    lengths = rng.integers(0, 4, len(shape.keys) * BATCH)
    values = rng.integers(0, min(shape.table_rows), lengths.sum())
    return rng.standard_normal((BATCH, shape.dense_in)), lengths, values


@pytest.mark.parametrize("name", SHAPES)
def test_imported_model_scores_as_the_archive_does(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    made = draft(shape)
    inputs = request(shape)
    model = import_archive(made.write(tmp_path / "ads.pt"))
    wanted = draft_scores(shape, made, *inputs)
    assert wanted.std() > 1e-3
    np.testing.assert_allclose(model_scores(model, *inputs), wanted, rtol=0, atol=1e-6)


def test_features_are_in_the_order_of_the_request(tmp_path: Path) -> None:
    model = import_archive(draft(SHAPES["quantised, other key order"]).write(tmp_path / "ads.pt"))
    assert [(feature.name, feature.table) for feature in model.spec.sparse_features] == [
        ("f2", "t_2"),
        ("f0", "t_0"),
        ("f1", "t_1"),
    ]


def test_weights_are_untouched_where_request_and_interaction_agree(tmp_path: Path) -> None:
    made = draft(Shape())
    model = import_archive(made.write(tmp_path / "ads.pt"))
    over = made.root.state["_module"].state["over_arch"].state["model"].state["0"]
    np.testing.assert_array_equal(model.over_layers[0].weight, mlp_layers(over)[0][0])


def test_padding_of_rows_is_dropped(tmp_path: Path) -> None:
    sharded, quantised = (import_archive(draft(Shape(sharded=s)).write(tmp_path / f"{s}.pt")) for s in (True, False))
    assert sharded.rows[RowFormat.INT8].shape == (50 + 7 + 33, 4 + 8)
    np.testing.assert_array_equal(sharded.rows[RowFormat.INT8], quantised.rows[RowFormat.INT8])


def test_spec_is_named_after_the_file_and_dense_features_are_numbered(tmp_path: Path) -> None:
    spec = import_archive(draft(replace(Shape(), dense_in=2)).write(tmp_path / "ads.pt")).spec
    assert (spec.name, spec.dense_features) == ("ads", ("dense_0", "dense_1"))


def test_weights_on_the_device_are_read_too(tmp_path: Path) -> None:
    made = draft(Shape())
    wanted = import_archive(made.write(tmp_path / "ads.pt")).version
    made.embedding.update(weights_dev=made.embedding["weights_host"], weights_host=np.zeros(0, np.uint8), host_size=0)
    made.embedding["weights_physical_placements"] = [0, 0, 0]
    assert import_archive(made.write(tmp_path / "ads.pt")).version == wanted


def test_archive_without_a_byte_order_is_little_endian(tmp_path: Path) -> None:
    assert import_archive(draft(Shape()).write(tmp_path / "ads.pt", byteorder=None)).spec.name == "ads"


@needs_real_archive
def test_real_archive_scores_its_golden_outputs() -> None:
    with np.load(REAL.with_suffix(".golden.npz")) as golden:
        inputs = golden["float_features"].astype(float), golden["lengths"].astype(int), golden["values"]
        np.testing.assert_allclose(model_scores(import_archive(REAL), *inputs), golden["scores"], rtol=0, atol=1e-6)


@needs_real_archive
def test_archives_written_here_are_built_like_a_real_one(tmp_path: Path) -> None:
    spec = import_archive(REAL).spec
    with open_archive(REAL) as archive:
        tree = archive.root()
        code = archive.code(tree.type_name)
    features = tuple(tuple(f.name for f in spec.sparse_features if f.table == table.name) for table in spec.tables)
    ours = Shape(
        sharded="_permute_kjt" not in code,
        table_rows=tuple(table.rows for table in spec.tables),
        features=features,
        keys=tuple(feature.name for feature in spec.sparse_features),
        dots=sum(features, ()),
        formats=tuple(table.format for table in spec.tables),
        dim=spec.dim,
        dense_in=len(spec.dense_features),
        dense_hidden=spec.dense_arch[:-1],
        over_hidden=spec.over_arch[:-1],
    )
    with open_archive(draft(ours).write(tmp_path / "ads.pt")) as archive:
        our_tree = archive.root()
        our_code = archive.code(our_tree.type_name)
    assert read_graph(our_code, "GraphModule") == read_graph(code, "GraphModule")
    # A real archive has attributes that say nothing about the model; those we write must be there, of the same kind.
    assert outline(our_tree).items() <= outline(tree).items()


def outline(value: object, path: str = "self") -> dict[str, str]:
    """The kind of each attribute below a module."""
    found = {path: type(value).__name__}
    if isinstance(value, Record) and isinstance(value.state, dict):
        for name, child in value.state.items():
            found |= outline(child, f"{path}.{name}")
    return found

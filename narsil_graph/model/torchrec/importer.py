"""From the module tree of a TorchRec archive to a Model."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from narsil_graph.model.spec import ModelSpec, RowFormat, SparseFeature, SpecError
from narsil_graph.model.torchrec.archive import Archive, open_archive
from narsil_graph.model.torchrec.graph import Graph, read_graph
from narsil_graph.model.torchrec.pickled import ImportRefused, Record, Tensor
from narsil_graph.model.torchrec.tables import Tables, read_tables
from narsil_graph.model.weights import LinearLayer, Model

GRAPH_CLASS = "GraphModule"
LINEAR_CLASS = "Linear"


def import_archive(path: Path) -> Model:
    """The DLRM that a TorchRec TorchScript archive holds, as ``DLRMPredictModule`` scripts it.

    The features are in the order of the archive's requests (its KeyedJaggedTensor's keys); where its interaction has
    them in another order, the columns of the first over layer are permuted to match. Nothing in the archive is run.
    Raises ImportRefused with one sentence that names the file and the reason.
    """
    try:
        with open_archive(path) as archive:
            return _read_model(archive, path.stem)
    except (ImportRefused, SpecError) as refusal:
        raise ImportRefused(f"cannot import {path}: {refusal}") from None


def _read_model(archive: Archive, name: str) -> Model:
    root = archive.root()
    class_name = root.type_name.rpartition(".")[2]
    if class_name != GRAPH_CLASS:
        raise ImportRefused(f"its root is a {class_name}, want an FX {GRAPH_CLASS} (as TorchRec's factory scripts it)")
    graph = read_graph(archive.code(root.type_name), class_name)
    _check_one_embedding(root, graph)
    tables = read_tables(archive, _module(root, graph.embedding))
    features, dot_order = _features(graph, tables)
    dense_layers = tuple(_layer(archive, root, path) for path in graph.dense_layers)
    over_layers = tuple(_layer(archive, root, path) for path in graph.over_layers)
    if not dense_layers:
        raise ImportRefused("its dense arch has no layers")
    dim = tables.specs[0].dim
    vectors = 1 + len(features)
    dense_width = dense_layers[0].weight.shape[1]
    _check_chain(graph.dense_layers, dense_layers, fed=dense_width, ends=dim)
    _check_chain(graph.over_layers, over_layers, fed=dim + vectors * (vectors - 1) // 2, ends=1)
    _check_dots(archive, root, graph, vectors=vectors)
    first, *others = over_layers
    columns = _over_columns(dot_order, dim=dim)
    return Model(
        spec=ModelSpec(
            name=name,
            dense_features=tuple(f"dense_{index}" for index in range(dense_width)),
            tables=tables.specs,
            sparse_features=features,
            dense_arch=tuple(len(layer.bias) for layer in dense_layers),
            over_arch=tuple(len(layer.bias) for layer in over_layers),
        ),
        rows=_rows_by_format(tables),
        dense_layers=dense_layers,
        over_layers=(LinearLayer(np.ascontiguousarray(first.weight[:, columns]), first.bias), *others),
    )


def _features(graph: Graph, tables: Tables) -> tuple[tuple[SparseFeature, ...], list[int]]:
    """The features in the order of the request, and the place of each among the vectors of the interaction."""
    names, keys, order = graph.embedding_names, graph.input_keys, graph.lookup_order
    if len(tables.feature_tables) != len(order):
        raise ImportRefused(f"it looks up {len(order)} features but maps {len(tables.feature_tables)} to tables")
    for what, entries in (("feature", names), ("input key", keys)):
        if repeated := sorted({entry for entry in entries if entries.count(entry) > 1}):
            raise ImportRefused(f"it has the {what} {repeated[0]!r} twice")
    if unused := [key for index, key in enumerate(keys) if index not in order]:
        raise ImportRefused(f"its input key {unused[0]!r} is read by no table")
    if any(index >= len(keys) for index in order) or tuple(keys[index] for index in order) != names:
        raise ImportRefused("its embedding does not name its features as the request does")
    if sorted(graph.interaction_names) != sorted(names):
        raise ImportRefused("its interaction does not use each feature once")
    by_key = dict(zip(names, tables.feature_tables, strict=True))
    features = tuple(SparseFeature(name=key, table=tables.specs[by_key[key]].name) for key in keys)
    return features, [1 + graph.interaction_names.index(key) for key in keys]


def _over_columns(dot_order: list[int], *, dim: int) -> NDArray[np.intp]:
    """For each input of our over arch its column in the archive's: the dense vector, then the dots."""
    places = np.array([0, *dot_order])
    left, right = np.triu_indices(len(places), 1)
    column = np.zeros((len(places), len(places)), np.intp)
    column[left, right] = column[right, left] = np.arange(dim, dim + len(left))
    return np.concatenate([np.arange(dim), column[places[left], places[right]]])


def _check_one_embedding(root: Record, graph: Graph) -> None:
    siblings = _module(root, graph.embedding.rpartition(".")[0]).state
    count = sum(isinstance(value, Record) for value in siblings.values()) if isinstance(siblings, dict) else 0
    if count != 1:
        raise ImportRefused("it has more than one table-batched embedding")


def _check_chain(paths: tuple[str, ...], layers: tuple[LinearLayer, ...], *, fed: int, ends: int) -> None:
    for path, layer in zip(paths, layers, strict=True):
        outputs, inputs = layer.weight.shape
        if inputs != fed:
            raise ImportRefused(f"its layer {path} takes {inputs} values but is given {fed}")
        fed = outputs
    if fed != ends:
        raise ImportRefused(f"its layer {paths[-1]} gives {fed} values, want {ends}")


def _check_dots(archive: Archive, root: Record, graph: Graph, *, vectors: int) -> None:
    for path, wanted in zip((graph.dot_rows, graph.dot_columns), np.triu_indices(vectors, 1), strict=True):
        if not np.array_equal(_tensor(archive, root, path), wanted):
            raise ImportRefused(f"its {path} is not a row of triu_indices({vectors}, {vectors}, 1)")


def _layer(archive: Archive, root: Record, path: str) -> LinearLayer:
    module = _module(root, path)
    if module.type_name.rpartition(".")[2] != LINEAR_CLASS:
        raise ImportRefused(f"its layer {path} is a {module.type_name}, want {LINEAR_CLASS}")
    weight, bias = (_tensor(archive, root, f"{path}.{part}") for part in ("weight", "bias"))
    if weight.dtype != np.float32 or bias.dtype != np.float32:
        raise ImportRefused(f"its layer {path} is {weight.dtype}, want float32")
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ImportRefused(f"its layer {path} has weights {list(weight.shape)} and biases {list(bias.shape)}")
    return LinearLayer(weight=np.array(weight, np.float32), bias=np.array(bias, np.float32))


def _rows_by_format(tables: Tables) -> dict[RowFormat, NDArray[np.uint8]]:
    formats = {spec.format for spec in tables.specs}
    return {
        row_format: np.concatenate(
            [rows for spec, rows in zip(tables.specs, tables.rows, strict=True) if spec.format is row_format]
        )
        for row_format in formats
    }


def _module(root: Record, path: str) -> Record:
    module = _attribute(root, path)
    if not isinstance(module, Record):
        raise ImportRefused(f"it has no module {path}")
    return module


def _tensor(archive: Archive, root: Record, path: str) -> NDArray[np.generic]:
    tensor = _attribute(root, path)
    if not isinstance(tensor, Tensor):
        raise ImportRefused(f"it has no tensor {path}")
    return archive.array(tensor)


def _attribute(root: Record, path: str) -> object:
    """What ``self.a.b`` names, None if there is no such thing."""
    found: object = root
    for part in path.split(".")[1:]:
        found = found.state.get(part) if isinstance(found, Record) and isinstance(found.state, dict) else None
    return found

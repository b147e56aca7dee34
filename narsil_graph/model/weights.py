"""The weights of a model and its one self-describing file.

The file is safetensors: ``rows.FORMAT`` [rows in all, row_bytes] uint8 holds the tables of one row format one after
another in the specification's order; ``dense.N.weight|bias`` and ``over.N.weight|bias`` are float32. The metadata
holds the specification as JSON and the SHA-256 of the tensors. Nothing in it can construct an object.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from narsil_graph.errors import Failure
from narsil_graph.model.spec import ModelSpec, RowFormat, SpecError

FORMAT_VERSION = "1"


class ModelFileError(Failure):
    """A model file that cannot be used; the message is one sentence that names the file."""


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """``weight`` float32 [out, in], ``bias`` float32 [out]."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True)
class Model:
    """A specification and weights that fit it: ``rows`` maps a row format to uint8 [rows in all, row_bytes]."""

    spec: ModelSpec
    rows: Mapping[RowFormat, NDArray[np.uint8]]
    dense_layers: tuple[LinearLayer, ...]
    over_layers: tuple[LinearLayer, ...]

    def __post_init__(self) -> None:
        formats = {table.format for table in self.spec.tables}
        if set(self.rows) != formats:
            raise SpecError(f"rows are stored as {_names(self.rows)} but the tables say {_names(formats)}")
        for row_format, stored in self.rows.items():
            row_count = sum(table.rows for table in self.spec.tables if table.format is row_format)
            _check_array(f"rows.{row_format.value}", stored, np.uint8, (row_count, row_format.row_bytes(self.spec.dim)))
        for what, layers, shapes in (
            ("dense", self.dense_layers, self.spec.dense_shapes()),
            ("over", self.over_layers, self.spec.over_shapes()),
        ):
            if len(layers) != len(shapes):
                raise SpecError(f"{what} arch has {len(layers)} layers of weights for {len(shapes)} widths")
            for number, (layer, shape) in enumerate(zip(layers, shapes, strict=True)):
                _check_array(f"{what}.{number}.weight", layer.weight, np.float32, shape)
                _check_array(f"{what}.{number}.bias", layer.bias, np.float32, shape[:1])

    @cached_property
    def version(self) -> str:
        """The first 12 hex digits of the SHA-256 over specification and weights."""
        return self.sha256[:12]

    @cached_property
    def sha256(self) -> str:
        """Hex digest over specification and weights; reads every byte of them, once."""
        return _digest(self)

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in _tensors(self).values())

    def table_rows(self, table_name: str) -> NDArray[np.uint8]:
        """The stored rows uint8 [rows, row_bytes] of one table, a view. KeyError if there is no such table."""
        begin = {row_format: 0 for row_format in self.rows}
        for table in self.spec.tables:
            if table.name == table_name:
                return self.rows[table.format][begin[table.format] : begin[table.format] + table.rows]
            begin[table.format] += table.rows
        raise KeyError(table_name)


def save_model(model: Model, path: Path) -> None:
    """Write ``model`` to ``path``, replacing it as a whole."""
    from safetensors.numpy import save

    metadata = {
        "narsil": FORMAT_VERSION,
        "spec": json.dumps(model.spec.to_dict(), sort_keys=True),
        "sha256": model.sha256,
    }
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(save(_tensors(model), metadata))
    temporary.replace(path)


def load_model(path: Path) -> Model:
    """Map the file at ``path``; the rows stay on disk pages that all processes on a machine share.

    Raises ModelFileError for a missing, damaged, truncated, foreign or newer file.
    """
    try:
        header, tensors = _map_file(path)
        metadata = header.get("__metadata__")
        if not isinstance(metadata, dict) or "narsil" not in metadata:
            raise ModelFileError(f"{path} is a safetensors file but not a narsil-graph model")
        if metadata["narsil"] != FORMAT_VERSION:
            raise ModelFileError(
                f"{path} is of model format {metadata['narsil']}, this version reads {FORMAT_VERSION}: "
                "upgrade narsil-graph"
            )
        spec = ModelSpec.from_dict(json.loads(metadata["spec"]))
        model = Model(
            spec=spec,
            rows={f: np.asarray(tensors[f"rows.{f.value}"], np.uint8) for f in {t.format for t in spec.tables}},
            dense_layers=_layers(tensors, "dense", len(spec.dense_arch)),
            over_layers=_layers(tensors, "over", len(spec.over_arch)),
        )
    except OSError as error:
        raise ModelFileError(f"cannot read the model {path}: {error.strerror or error}") from None
    except (SpecError, KeyError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged: {error}") from None
    if model.sha256 != metadata.get("sha256"):
        raise ModelFileError(f"{path} is damaged: its weights do not have the SHA-256 that it states")
    return model


def _map_file(path: Path) -> tuple[dict[str, object], dict[str, NDArray[np.generic]]]:
    """Header and zero-copy tensors. safetensors checks the layout first; it would copy the tensors, so we map them."""
    from safetensors import SafetensorError, safe_open

    path.stat()  # a missing file is an OSError with the system's words
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ModelFileError(f"{path} is not a safetensors file or is truncated ({error})") from None
    # Copy-on-write: torch wants writable memory, nothing writes to it, and unwritten pages stay shared.
    mapped = np.memmap(path, np.uint8, mode="c")
    header_bytes = int(mapped[:8].view("<u8")[0])
    header: dict[str, object] = json.loads(mapped[8 : 8 + header_bytes].tobytes())
    tensors: dict[str, NDArray[np.generic]] = {}
    for name, entry in header.items():
        if name != "__metadata__" and isinstance(entry, dict):
            begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
            dtype = {"U8": np.uint8, "F32": np.float32}.get(entry["dtype"])
            if dtype is None:
                raise ModelFileError(f"{path} is damaged: tensor {name} is of type {entry['dtype']}")
            tensors[name] = mapped[begin:end].view(np.ndarray).view(dtype).reshape(entry["shape"])
    return header, tensors


def _layers(tensors: Mapping[str, NDArray[np.generic]], what: str, count: int) -> tuple[LinearLayer, ...]:
    return tuple(
        LinearLayer(
            weight=np.asarray(tensors[f"{what}.{number}.weight"], np.float32),
            bias=np.asarray(tensors[f"{what}.{number}.bias"], np.float32),
        )
        for number in range(count)
    )


def _tensors(model: Model) -> dict[str, NDArray[np.generic]]:
    named: dict[str, NDArray[np.generic]] = {f"rows.{f.value}": rows for f, rows in model.rows.items()}
    for what, layers in (("dense", model.dense_layers), ("over", model.over_layers)):
        for number, layer in enumerate(layers):
            named[f"{what}.{number}.weight"] = np.ascontiguousarray(layer.weight)
            named[f"{what}.{number}.bias"] = np.ascontiguousarray(layer.bias)
    return named


def _digest(model: Model) -> str:
    sha = hashlib.sha256(json.dumps(model.spec.to_dict(), sort_keys=True).encode())
    for name, tensor in sorted(_tensors(model).items()):
        sha.update(name.encode())
        sha.update(np.ascontiguousarray(tensor).view(np.uint8).data)
    return sha.hexdigest()


def _check_array(what: str, array: NDArray[np.generic], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise SpecError(f"{what} is {array.dtype} {list(array.shape)}, want {np.dtype(dtype)} {list(shape)}")


def _names(formats: object) -> str:
    assert isinstance(formats, Mapping | set)
    return ", ".join(sorted(row_format.value for row_format in formats)) or "nothing"

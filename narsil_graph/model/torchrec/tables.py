"""The tables of a scripted FBGEMM table-batched embedding: checked, and repacked to unpadded rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narsil_graph.model.spec import Pooling, RowFormat, TableSpec
from narsil_graph.model.torchrec.archive import Archive
from narsil_graph.model.torchrec.pickled import ImportRefused, Record, Tensor

Rows = NDArray[np.uint8]
EMBEDDING_CLASS = "IntNBitTableBatchedEmbeddingBagsCodegen"
QPARAM_BYTES = 4
OUTPUT_FP32 = 0
POOLINGS: Mapping[int, Pooling] = {0: Pooling.SUM, 1: Pooling.MEAN}
# FBGEMM's numbers of the row formats, as in ``weights_tys``.
FORMAT_NUMBERS: Mapping[RowFormat, int] = {RowFormat.FP32: 0, RowFormat.FP16: 1, RowFormat.INT8: 2, RowFormat.INT4: 3}
DEVICE, HOST = 0, 3


@dataclass(frozen=True, slots=True)
class Tables:
    """``rows`` [rows, row_bytes] of each table, and the table index of each feature."""

    specs: tuple[TableSpec, ...]
    rows: tuple[Rows, ...]
    feature_tables: tuple[int, ...]


def read_tables(archive: Archive, embedding: Record) -> Tables:
    """Raises ImportRefused for state that cannot be served or does not fit together."""
    source = _Attributes(archive, embedding)
    if not embedding.type_name.endswith(f".{EMBEDDING_CLASS}"):
        raise ImportRefused(f"its embedding is a {embedding.type_name.rpartition('.')[2]}, want {EMBEDDING_CLASS}")
    _check_settings(source)
    specs = _table_specs(source)
    feature_tables = tuple(source.integers("feature_table_map"))
    if any(table >= len(specs) for table in feature_tables):
        raise ImportRefused("its feature_table_map names a table that does not exist")
    offsets = source.integers("weights_physical_offsets")
    if len(offsets) != len(specs):
        raise ImportRefused(f"it has {len(specs)} tables but {len(offsets)} weights_physical_offsets")
    # The lookup goes by these two; were they at odds with the tables, we would serve another model.
    for name, wanted in (
        ("weights_offsets", [offsets[table] for table in feature_tables]),
        ("weights_tys", [FORMAT_NUMBERS[specs[table].format] for table in feature_tables]),
    ):
        if source.values(name).tolist() != wanted:
            raise ImportRefused(f"its {name} contradict its embedding_specs")
    alignment = source.integer("row_alignment")
    if alignment < 1:
        raise ImportRefused(f"its row_alignment is {alignment}")
    weights = source.values("weights_host" if source.integer("host_size") else "weights_dev")
    rows = tuple(
        _unpadded_rows(weights, spec, offset, alignment=alignment) for spec, offset in zip(specs, offsets, strict=True)
    )
    return Tables(specs=specs, rows=rows, feature_tables=feature_tables)


def _check_settings(source: "_Attributes") -> None:
    for name, wanted, reason in (
        ("weight_initialized", True, "its tables were never initialised"),
        ("reverse_qparam", False, "it stores scale and bias behind each row (reverse_qparam)"),
        ("index_remapping_hash_table_cpu", None, "its tables are pruned (a CPU hash table remaps the ids)"),
    ):
        if (found := source.attribute(name)) is not wanted:
            raise ImportRefused(f"{reason}: {name} is {found!r}" if isinstance(found, bool) else reason)
    for name, reason in (
        ("index_remappings_array", "its tables are pruned (index_remappings_array remaps the ids)"),
        ("index_remapping_hash_table", "its tables are pruned (index_remapping_hash_table remaps the ids)"),
        ("weights_uvm", "its weights are placed in unified memory (weights_uvm)"),
        ("lxu_cache_weights", "its weights are cached on the device (lxu_cache_weights)"),
    ):
        if source.values(name).size:
            raise ImportRefused(reason)
    if (qparam_bytes := source.integer("scale_bias_size_in_bytes")) != QPARAM_BYTES:
        raise ImportRefused(f"its scale_bias_size_in_bytes is {qparam_bytes}, want {QPARAM_BYTES}")
    if (output := source.integer("output_dtype")) != OUTPUT_FP32:
        raise ImportRefused(f"it pools to FBGEMM's type {output} (output_dtype), want float32")
    placements = source.integers("weights_physical_placements")
    if strange := sorted(set(placements) - {DEVICE, HOST}):
        raise ImportRefused(f"its weights have the placement {strange[0]} (unified memory or a cache), want 0 or 3")
    if len(set(placements)) != 1:
        raise ImportRefused("its weights lie partly on the host and partly on the device")


def _table_specs(source: "_Attributes") -> tuple[TableSpec, ...]:
    mode = source.integer("pooling_mode")
    if mode not in POOLINGS:
        raise ImportRefused(f"its pooling_mode is {mode}, want 0 (sum) or 1 (mean)")
    specs = tuple(_table_spec(entry, POOLINGS[mode]) for entry in source.sequence("embedding_specs"))
    if len(dims := sorted({spec.dim for spec in specs})) > 1:
        raise ImportRefused(f"its tables have the dims {dims}, and pairwise dots need one")
    return specs


def _table_spec(entry: object, pooling: Pooling) -> TableSpec:
    match entry:
        case (str(name), int(rows), int(dim), str(type_name), _):
            formats = {row_format.value: row_format for row_format in FORMAT_NUMBERS}
            if type_name not in formats:
                raise ImportRefused(f"table {name!r} is stored as {type_name}, want one of {', '.join(formats)}")
            return TableSpec(name=name, rows=rows, dim=dim, format=formats[type_name], pooling=pooling)
        case _:
            raise ImportRefused("its embedding_specs are not (name, rows, dim, type, place)")


def _unpadded_rows(weights: NDArray[np.generic], spec: TableSpec, offset: int, *, alignment: int) -> Rows:
    padded_bytes = -(-spec.row_bytes // alignment) * alignment
    end = offset + spec.rows * padded_bytes
    if weights.dtype != np.uint8 or weights.ndim != 1:
        raise ImportRefused(f"its weights are {weights.dtype} of {weights.ndim} dimensions, want flat bytes")
    if end > weights.size:
        raise ImportRefused(f"table {spec.name!r} reaches to byte {end} of {weights.size} bytes of weights")
    rows = weights[offset:end].view(np.uint8).reshape(spec.rows, padded_bytes)[:, : spec.row_bytes]
    # A quantised row whose scale and bias are zero is zero whatever its codes say.
    quantised = spec.format in (RowFormat.INT8, RowFormat.INT4)
    if not rows[:, : QPARAM_BYTES if quantised else None].any():
        raise ImportRefused(
            f"table {spec.name!r} holds only zeros: shard_quant_model makes empty tables, "
            "so copy the quantised weights into it before scripting"
        )
    return rows


class _Attributes:
    """The attributes of a scripted module, by the type that is due."""

    def __init__(self, archive: Archive, module: Record) -> None:
        self._archive = archive
        self._state = module.state

    def attribute(self, name: str) -> object:
        if not isinstance(self._state, dict) or name not in self._state:
            raise ImportRefused(f"its embedding has no {name}: it was made by an unknown version of FBGEMM")
        return self._state[name]

    def integer(self, name: str) -> int:
        value = self.attribute(name)
        if not isinstance(value, int) or value < 0:
            raise ImportRefused(f"its {name} is not a number from 0")
        return value

    def sequence(self, name: str) -> list[object]:
        value = self.attribute(name)
        if not isinstance(value, list) or not value:
            raise ImportRefused(f"its {name} is not a list with entries")
        return list(value)

    def integers(self, name: str) -> list[int]:
        entries = self.sequence(name)
        numbers = [entry for entry in entries if isinstance(entry, int) and entry >= 0]
        if len(numbers) != len(entries):
            raise ImportRefused(f"its {name} are not all numbers from 0")
        return numbers

    def values(self, name: str) -> NDArray[np.generic]:
        value = self.attribute(name)
        if not isinstance(value, Tensor):
            raise ImportRefused(f"its {name} is not a tensor")
        return self._archive.array(value)

"""The specification of a DLRM: what goes in, how it is shaped, what comes out."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from narsil_graph.errors import Failure

INT32_MAX = 2**31 - 1


class SpecError(Failure, ValueError):
    """A specification that describes no model that can be served; the message is one sentence."""


class RowFormat(enum.Enum):
    """How one embedding row is stored, in FBGEMM's layouts (quantised rows begin with float16 scale and bias)."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT4 = "int4"

    def row_bytes(self, dim: int) -> int:
        """Bytes of one unpadded row of ``dim`` values."""
        match self:
            case RowFormat.FP32:
                return 4 * dim
            case RowFormat.FP16:
                return 2 * dim
            case RowFormat.INT8:
                return 4 + dim
            case RowFormat.INT4:
                return 4 + dim // 2


class Pooling(enum.Enum):
    """How the rows of one bag become one vector. An empty bag pools to zero either way."""

    SUM = "sum"
    MEAN = "mean"


def _positive(what: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= INT32_MAX:
        raise SpecError(f"{what} must be an integer from 1 to 2^31-1, got {value!r}")


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One embedding table: ``rows`` x ``dim`` values stored as ``format``."""

    name: str
    rows: int
    dim: int
    format: RowFormat = RowFormat.INT8
    pooling: Pooling = Pooling.SUM

    def __post_init__(self) -> None:
        _positive(f"table {self.name!r}: rows", self.rows)
        _positive(f"table {self.name!r}: dim", self.dim)
        if self.dim % 4:
            raise SpecError(f"table {self.name!r}: dim must be a multiple of 4, got {self.dim}")

    @property
    def row_bytes(self) -> int:
        return self.format.row_bytes(self.dim)


@dataclass(frozen=True, slots=True)
class SparseFeature:
    """A categorical input and the table that it looks up."""

    name: str
    table: str


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A DLRM: dense arch, table-batched embeddings, pairwise dots, over arch, sigmoid.

    ``dense_arch`` lists the widths after the input (ReLU after each); its last width is the embedding dim.
    ``over_arch`` lists the widths after [dense out, dots] (ReLU after each but the last); its last width is 1.
    The dots are those of ``triu_indices(F, F, 1)`` over F = 1 + features vectors, the dense one first
    (the order of TorchRec's InteractionArch). ``activation_ranges`` holds the least and the largest input seen by
    each layer, dense arch first, on calibration data; int8 dense layers need it, nothing else does.
    """

    name: str
    dense_features: tuple[str, ...]
    tables: tuple[TableSpec, ...]
    sparse_features: tuple[SparseFeature, ...]
    dense_arch: tuple[int, ...]
    over_arch: tuple[int, ...]
    activation_ranges: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        for what, names in (
            ("dense feature", self.dense_features),
            ("table", tuple(table.name for table in self.tables)),
            ("sparse feature", tuple(feature.name for feature in self.sparse_features)),
        ):
            if not names:
                raise SpecError(f"a model needs at least one {what}")
            if len(set(names)) != len(names):
                raise SpecError(f"two {what}s have the same name")
        for what, widths in (("dense_arch", self.dense_arch), ("over_arch", self.over_arch)):
            if not widths:
                raise SpecError(f"{what} needs at least one layer")
            for width in widths:
                _positive(f"{what} width", width)
        if self.over_arch[-1] != 1:
            raise SpecError(f"over_arch must end in width 1 (one score a row), got {self.over_arch[-1]}")
        if self.activation_ranges and len(self.activation_ranges) != len(self.dense_arch) + len(self.over_arch):
            raise SpecError(f"activation_ranges has {len(self.activation_ranges)} entries, want one per layer")
        if any(not low <= high for low, high in self.activation_ranges):
            raise SpecError("activation_ranges has an entry whose low is not below its high")
        self._check_tables()

    def _check_tables(self) -> None:
        known = {table.name for table in self.tables}
        used = {feature.table for feature in self.sparse_features}
        if used - known:
            raise SpecError(f"a sparse feature names the unknown table {min(used - known)!r}")
        if known - used:
            raise SpecError(f"no sparse feature uses the table {min(known - used)!r}")
        dims = sorted({table.dim for table in self.tables})
        if dims != [self.dense_arch[-1]]:
            raise SpecError(
                f"pairwise dots need one embedding dim equal to the dense arch's last width, "
                f"got table dims {dims} and dense width {self.dense_arch[-1]}"
            )
        if sum(table.rows for table in self.tables) > INT32_MAX:
            raise SpecError("the tables hold more than 2^31-1 rows in all, which int32 ids cannot number")

    @property
    def dim(self) -> int:
        return self.dense_arch[-1]

    @property
    def vectors(self) -> int:
        """Vectors that interact: the dense one and one per sparse feature."""
        return 1 + len(self.sparse_features)

    @property
    def over_width(self) -> int:
        """Inputs of the over arch: the dense vector and the pairwise dots."""
        return self.dim + self.vectors * (self.vectors - 1) // 2

    @property
    def feature_tables(self) -> tuple[TableSpec, ...]:
        """The table of each sparse feature, in feature order."""
        by_name = {table.name: table for table in self.tables}
        return tuple(by_name[feature.table] for feature in self.sparse_features)

    def dense_shapes(self) -> tuple[tuple[int, int], ...]:
        """(out, in) of each layer of the dense arch."""
        return tuple(zip(self.dense_arch, (len(self.dense_features), *self.dense_arch[:-1]), strict=True))

    def over_shapes(self) -> tuple[tuple[int, int], ...]:
        """(out, in) of each layer of the over arch."""
        return tuple(zip(self.over_arch, (self.over_width, *self.over_arch[:-1]), strict=True))

    def to_dict(self) -> dict[str, object]:
        """A JSON-ready form; ``from_dict`` is its inverse."""
        return {
            "name": self.name,
            "dense_features": list(self.dense_features),
            "tables": [
                {"name": t.name, "rows": t.rows, "dim": t.dim, "format": t.format.value, "pooling": t.pooling.value}
                for t in self.tables
            ],
            "sparse_features": [{"name": f.name, "table": f.table} for f in self.sparse_features],
            "dense_arch": list(self.dense_arch),
            "over_arch": list(self.over_arch),
            "activation_ranges": [list(low_high) for low_high in self.activation_ranges],
        }

    @classmethod
    def from_dict(cls, data: object) -> "ModelSpec":
        """Raise SpecError when ``data`` is not what ``to_dict`` writes."""
        try:
            fields = _mapping(data)
            spec = cls(
                name=_text(fields["name"]),
                dense_features=tuple(_text(name) for name in _sequence(fields["dense_features"])),
                tables=tuple(_table(entry) for entry in _sequence(fields["tables"])),
                sparse_features=tuple(_feature(entry) for entry in _sequence(fields["sparse_features"])),
                dense_arch=tuple(_integer(width) for width in _sequence(fields["dense_arch"])),
                over_arch=tuple(_integer(width) for width in _sequence(fields["over_arch"])),
                activation_ranges=tuple(_range(entry) for entry in _sequence(fields["activation_ranges"])),
            )
        except KeyError as missing:
            raise SpecError(f"the specification lacks {missing}") from None
        except (TypeError, ValueError) as wrong:
            raise SpecError(f"the specification is malformed: {wrong}") from None
        return spec


def _mapping(data: object) -> Mapping[str, object]:
    if not isinstance(data, dict):
        raise TypeError(f"want an object, got {type(data).__name__}")
    return {_text(key): value for key, value in data.items()}


def _sequence(data: object) -> list[object]:
    if not isinstance(data, list):
        raise TypeError(f"want a list, got {type(data).__name__}")
    return list(data)


def _text(data: object) -> str:
    if not isinstance(data, str):
        raise TypeError(f"want a string, got {type(data).__name__}")
    return data


def _integer(data: object) -> int:
    if not isinstance(data, int) or isinstance(data, bool):
        raise TypeError(f"want an integer, got {type(data).__name__}")
    return data


def _range(data: object) -> tuple[float, float]:
    low, high = _sequence(data)
    if not isinstance(low, float) or not isinstance(high, float):
        raise TypeError(f"want two floats, got {data!r}")
    return low, high


def _table(data: object) -> TableSpec:
    fields = _mapping(data)
    return TableSpec(
        name=_text(fields["name"]),
        rows=_integer(fields["rows"]),
        dim=_integer(fields["dim"]),
        format=RowFormat(fields["format"]),
        pooling=Pooling(fields["pooling"]),
    )


def _feature(data: object) -> SparseFeature:
    fields = _mapping(data)
    return SparseFeature(name=_text(fields["name"]), table=_text(fields["table"]))

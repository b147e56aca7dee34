"""One exchange with a server: what is sent and what may come back; and the model shape that cases are made for."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from narsil_client.errors import NarsilError
from narsil_transport.header import pack_header, prelude
from narsil_transport.messages import Operation
from narsil_transport.tensors import describe_tensor

# Every single request has this id, so that a reply under id 0 is told from one under the request's own.
ID = 9
ROWS = 2
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

Array = npt.NDArray[Any]
Tensors = Sequence[tuple[str, Array]]
Frames = tuple[bytes, ...]
# What a reply under this id may be: "scores[rows]", "health", "metadata", or a refusal's status.
Wanted = Mapping[int, tuple[str, ...]]


class NotExaminable(NarsilError):
    """The server's METADATA does not say what requests it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What well-formed requests look like, from a METADATA reply. `table_rows` has one entry per feature."""

    name: str
    dense_width: int
    table_rows: tuple[int, ...]
    rows_max: int
    ids_per_row_max: int
    frame_bytes_max: int | None
    window: int
    shm: bool

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> "ModelShape":
        """Raises NotExaminable where `meta` lacks what PROTOCOL.md says is there."""
        try:
            spec = meta["spec"]
            tables = {table["name"]: int(table["rows"]) for table in spec["tables"]}
            frame_bytes_max = meta.get("limits", {}).get("frame_bytes_max")
            return cls(
                name=spec["name"],
                dense_width=len(spec["dense_features"]),
                table_rows=tuple(tables[feature["table"]] for feature in spec["sparse_features"]),
                rows_max=int(meta["rows_max"]),
                ids_per_row_max=max(int(ids) for _, ids in [*meta["buckets"], *meta["missing_buckets"]]),
                frame_bytes_max=None if frame_bytes_max is None else int(frame_bytes_max),
                window=int(meta.get("window", 64)),
                shm=bool(meta.get("shm", False)),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise NotExaminable(f"METADATA does not describe the model: {type(error).__name__} {error}") from None

    def takes(self, message: Frames) -> bool:
        """Whether no frame exceeds what the server says it receives."""
        return self.frame_bytes_max is None or max(map(len, message)) <= self.frame_bytes_max


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`messages`, as a DEALER sends them; each id in `wanted` must be answered once, as one of its outcomes says.

    `like` names an earlier case that has the same scores. `traced`: scores repeat TRACEPARENT. `cut`: the server
    disconnects who sends this, so nothing can be asked on that connection afterwards.
    """

    name: str
    messages: tuple[Frames, ...]
    wanted: Wanted
    like: str = ""
    traced: bool = False
    cut: bool = False

    @property
    def delimited(self) -> bool:
        """Whether the server takes the first frame for a REQ's delimiter, which the reply then has, too."""
        first = self.messages[0]
        return not first[0] and len(first) > 1

    @property
    def wish(self) -> str:
        """`wanted` for a person."""
        return counted(" or ".join(outcomes) for outcomes in self.wanted.values())


def counted(outcomes: Iterable[str]) -> str:
    """Outcomes in a few words: "256 x scores[1], 8 x OVERLOADED"."""
    counts = Counter(outcomes)
    return ", ".join(word if count == 1 else f"{count} x {word}" for word, count in counts.items()) or "nothing"


def asked(name: str, message: Frames, *outcomes: str, request_id: int = ID, **more: Any) -> Case:
    """One message that gets one reply."""
    return Case(name=name, messages=(message,), wanted={request_id: outcomes}, **more)


def header(fields: Mapping[str, Any], *, operation: int = Operation.INFER) -> bytes:
    return pack_header(prelude(operation), fields)


def infer(tensors: Tensors, **fields: Any) -> Frames:
    """An INFER of these tensors; `fields` add to its header, or replace what would be there."""
    specs = [describe_tensor(name, array) for name, array in tensors]
    return header({"id": ID, "t": specs} | fields), *(array.tobytes() for _, array in tensors)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The same few valid rows in every case: dense f4 [n, D], ids i4 [n, T], and bags of 0 to 2 ids."""

    dense: Array
    ids: Array
    lengths: Array
    values: Array

    @classmethod
    def of(cls, shape: ModelShape, rows: int = ROWS) -> "Rows":
        rng = np.random.default_rng(rows)
        features = len(shape.table_rows)
        # The largest id of the first feature, so that an off-by-one in the server's check shows.
        ids = rng.integers(0, shape.table_rows, (rows, features)).astype("<i4")
        ids[0, 0] = shape.table_rows[0] - 1
        # No more than one id per feature on average: every bucket has room for that.
        lengths = np.tile(np.array([2, 0] * features, "<i4")[:features], (rows, 1))
        lengths[:, -1] = features - lengths[:, :-1].sum(axis=1)
        values = np.repeat(ids.reshape(-1), lengths.reshape(-1)).astype("<i4")
        return cls(rng.random((rows, shape.dense_width)).astype("<f4"), ids, lengths, values)

    @property
    def one_hot(self) -> list[tuple[str, Array]]:
        return [("dense", self.dense), ("ids", self.ids)]

    @property
    def bags(self) -> list[tuple[str, Array]]:
        return [("dense", self.dense), ("lengths", self.lengths), ("values", self.values)]

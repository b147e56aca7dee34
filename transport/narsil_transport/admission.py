"""May this request enter? Semantics against the served model, torch-free and pure."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from narsil_transport.messages import Ids, InferRequest, Lengths
from narsil_transport.status import Refusal, Status

_UINT32, _UINT64 = np.dtype(np.uint32), np.dtype(np.uint64)
RowOffsets = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ModelLimits:
    """What a request must keep to: the model's name and shape, and the sizes the server takes.

    `table_rows` int64 [T] is the row count of each feature's table. `ids_per_row_max` is what the largest bucket
    holds for one row, so that any admitted row fits a batch. Raises ValueError where these contradict each other.
    """

    name: str
    dense_width: int
    table_rows: npt.NDArray[np.int64]
    feature_names: tuple[str, ...]
    rows_max: int
    ids_per_row_max: int
    allow_nonfinite: bool = False
    # Laid out as the largest request is, because a broadcast compare of 26 columns costs twice a flat one.
    _zeros: npt.NDArray[np.float32] = field(init=False, repr=False)
    _id_ends: dict[int, npt.NDArray[Any]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        features = len(self.feature_names)
        if self.dense_width < 1 or features < 1 or self.rows_max < 1:
            raise ValueError("want at least one dense column, one feature and one row")
        if self.table_rows.shape != (features,) or self.table_rows.min() < 1:
            raise ValueError(f"want {features} tables of at least one row, got {self.table_rows.tolist()}")
        if self.ids_per_row_max < features:
            raise ValueError(f"want ids_per_row_max of at least {features}, got {self.ids_per_row_max}")
        ends = np.tile(self.table_rows.astype(np.int64), (self.rows_max, 1))
        # A negative id, seen unsigned, is at least 2**31 (2**63): one compare below these ends catches both sides.
        id_ends = {4: np.minimum(ends, 1 << 31).astype(np.uint32), 8: ends.astype(np.uint64)}
        object.__setattr__(self, "_id_ends", id_ends)
        object.__setattr__(self, "_zeros", np.zeros((self.rows_max, self.dense_width), np.float32))

    def finite(self, dense: npt.NDArray[np.float32]) -> bool:
        """Whether no value is NaN or infinite: 0 times either is NaN, and a sum that met one stays NaN."""
        return bool(np.vdot(dense, self._zeros[: len(dense)]) == 0.0)

    def id_ends(self, rows: int, itemsize: int) -> npt.NDArray[Any]:
        """The first id too large, unsigned [rows, T], to compare with ids of `itemsize` bytes seen unsigned."""
        return self._id_ends[itemsize][:rows]


@dataclass(slots=True, eq=False)
class Admitted:
    """A request that may run, with what the batcher needs. `route` is carried for the reply, never looked at.

    `ids` counts the request's ids. `row_offsets` int64 [rows + 1] says where each row's values start (multi-hot),
    or is None where every row has `ids_per_row` ids (one per feature).
    """

    route: object
    request: InferRequest
    admitted_ns: int
    deadline_ns: int | None
    rows: int
    ids: int
    ids_per_row: int
    row_offsets: RowOffsets | None


def admit(request: InferRequest, *, limits: ModelLimits, now_ns: int, route: object) -> Admitted | Refusal:
    """The admitted request, or the refusal that says what is wrong with it. `now_ns` is its receipt."""
    rows, width = request.dense.shape
    ids, lengths, values = request.ids, request.lengths, request.values
    keyed = ids if ids is not None else lengths
    if keyed is None or (ids is None) == (values is None):
        return Refusal(Status.INVALID, "want either ids, or lengths and values")
    features = keyed.shape[1]
    if request.model and request.model != limits.name:
        return Refusal(Status.UNKNOWN_MODEL, f"this server has model {limits.name!r}, not {request.model!r:.80}")
    if width != limits.dense_width or features != len(limits.feature_names):
        want = f"{limits.dense_width} dense columns and {len(limits.feature_names)} features"
        return Refusal(Status.INVALID, f"want {want}, got {width} and {features}")
    if not rows:
        return Refusal(Status.INVALID, "want at least one row")
    if rows > limits.rows_max:
        return Refusal(Status.TOO_LARGE, f"want at most {limits.rows_max} rows, got {rows}")
    if not limits.allow_nonfinite and not limits.finite(request.dense):
        return _refuse_nonfinite(request.dense)
    if ids is not None:
        refusal, id_count, offsets = _refuse_ids(ids, limits), rows * features, None
    elif lengths is not None and values is not None:
        refusal = _refuse_lengths(lengths, values, limits) or _refuse_values(lengths, values, limits)
        id_count, offsets = len(values), _row_offsets(lengths)
    if refusal is not None:
        return refusal
    deadline_us = request.deadline_us
    deadline_ns = None if deadline_us is None else now_ns + deadline_us * 1000
    return Admitted(route, request, now_ns, deadline_ns, rows, id_count, features, offsets)

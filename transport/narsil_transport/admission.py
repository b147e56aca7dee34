"""May this request enter? Semantics against the served model, torch-free and pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from narsil_transport.messages import Floats, Ids, InferRequest, Lengths, Priority, UserPart
from narsil_transport.status import Refusal, Status
from narsil_transport.user_once import expanded

# A person who waits notices one second; a deadline on this system is a thousand times shorter.
PATIENCE_NS = 1_000_000_000

_BULK = Priority.BULK

RowOffsets = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ModelLimits:
    """What a request must keep to: the model's name and shape, and the sizes the server takes.

    `table_rows` int64 [T] is the row count of each feature's table. `ids_per_row_max` is what the largest bucket
    holds for one row, so that any admitted row fits a batch. `expanded_ids_max` bounds the bags of all rows together
    where a user's part is repeated in each: a few bytes become that many ids. Raises ValueError where these contradict
    each other.
    """

    name: str
    dense_width: int
    table_rows: npt.NDArray[np.int64]
    feature_names: tuple[str, ...]
    rows_max: int
    ids_per_row_max: int
    allow_nonfinite: bool = False
    # 8 MiB of ids: twice what 4096 rows of 32 features have with bags of four.
    expanded_ids_max: int = 1 << 20
    # Laid out as the largest request is, because a broadcast compare of 26 columns costs twice a flat one.
    _zeros: Floats = field(init=False, repr=False)
    _id_ends: Mapping[int, tuple[np.dtype[Any], npt.NDArray[Any]]] = field(init=False, repr=False)

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
        id_ends = {
            4: (np.dtype(np.uint32), np.minimum(ends, 1 << 31).astype(np.uint32)),
            8: (np.dtype(np.uint64), ends.astype(np.uint64)),
        }
        object.__setattr__(self, "_id_ends", id_ends)
        object.__setattr__(self, "_zeros", np.zeros((self.rows_max, self.dense_width), np.float32))

    def finite(self, dense: Floats) -> bool:
        """Whether no value is NaN or infinite: 0 times either is NaN, and a sum that met one stays NaN."""
        # vdot, for numpy.dot warns of that NaN.
        return bool(np.vdot(dense, self._zeros[: len(dense)]) == 0.0)

    def below_end(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """For ids [n, T], whether each is an id of its feature's table."""
        unsigned, ends = self._id_ends[ids.itemsize]
        return ids.view(unsigned) < ends[: len(ids)]

    def bags_below_end(self, lengths: Lengths, values: Ids) -> npt.NDArray[np.bool_]:
        """For values [nnz] in bags of these lengths [n, T], whether each is an id of its feature's table."""
        unsigned, ends = self._id_ends[values.itemsize]
        return values.view(unsigned) < np.repeat(ends[: len(lengths)].reshape(-1), lengths.reshape(-1))


@dataclass(slots=True, eq=False)
class Admitted:
    """A request that may run, with what the batcher needs. `route` is carried for the reply, never looked at.

    `request` is a plain one: a user's part has been repeated in its rows. `ids` counts its ids. `row_offsets` int64
    [rows + 1] says where each row's values start (multi-hot), or is None where every row has `ids_per_row` ids (one per
    feature). `due_ns` is what the queue is ordered by: the deadline, or where there is none `PATIENCE_NS` after
    receipt. `bulk` is the request's priority.
    """

    route: object
    request: InferRequest
    admitted_ns: int
    deadline_ns: int | None
    rows: int
    ids: int
    ids_per_row: int
    row_offsets: RowOffsets | None
    due_ns: int
    bulk: bool


def admit(
    request: InferRequest,
    *,
    limits: ModelLimits,
    now_ns: int,
    route: object,
    default_deadline_us: int | None = None,
) -> Admitted | Refusal:
    """The admitted request, or the refusal that says what is wrong with it. `now_ns` is its receipt.

    `default_deadline_us` is the budget of an interactive request that names none; bulk work waits without one.
    """
    if request.user is not None:
        plain = _expanded(request, request.user, limits)
        if isinstance(plain, Refusal):
            return plain
        request = plain
    ids, lengths, values = request.ids, request.lengths, request.values
    row_offsets: RowOffsets | None = None
    if ids is not None:
        refusal = _refuse_size(request, ids, limits) or _refuse_ids(ids, limits)
        id_count = ids.size
    elif lengths is not None and values is not None:
        row_offsets = _offsets(lengths)
        refusal = (
            _refuse_size(request, lengths, limits)
            or _refuse_lengths(lengths, row_offsets, values, limits)
            or _refuse_values(lengths, values, limits)
        )
        id_count = values.size
    else:
        refusal, id_count = Refusal(Status.INVALID, "want either ids, or lengths and values"), 0
    if refusal is not None:
        return refusal
    bulk = request.priority is _BULK
    deadline_us = request.deadline_us
    if deadline_us is None and not bulk:
        deadline_us = default_deadline_us
    deadline_ns = None if deadline_us is None else now_ns + deadline_us * 1000
    due_ns = now_ns + PATIENCE_NS if deadline_ns is None else deadline_ns
    rows, ids_per_row = len(request.dense), len(limits.feature_names)
    return Admitted(route, request, now_ns, deadline_ns, rows, id_count, ids_per_row, row_offsets, due_ns, bulk)


def _expanded(request: InferRequest, user: UserPart, limits: ModelLimits) -> InferRequest | Refusal:
    keyed = request.ids if request.lengths is None else request.lengths
    keyed_rows = 0 if keyed is None else len(keyed)
    # A user's part is decoded only with masks that cover the columns and features of both parts.
    dense, whole = (request.rows, len(user.dense_mask)), (keyed_rows, len(user.feature_mask))
    refusal = _refuse_shapes(request.model, dense, whole, limits)
    if refusal is not None:
        return refusal
    return expanded(request, user, ids_per_row_max=limits.ids_per_row_max, bag_ids_max=limits.expanded_ids_max)


def _refuse_size(request: InferRequest, keyed: Ids, limits: ModelLimits) -> Refusal | None:
    dense = request.dense
    refusal = _refuse_shapes(request.model, dense.shape, keyed.shape, limits)
    if refusal is not None or limits.allow_nonfinite or limits.finite(dense):
        return refusal
    row, column = np.argwhere(~np.isfinite(dense))[0]
    detail = f"dense row {row}, column {column} is {dense[row, column]}"
    return Refusal(Status.NOT_FINITE, detail)


def _refuse_shapes(model: str, dense: tuple[int, ...], keyed: tuple[int, ...], limits: ModelLimits) -> Refusal | None:
    rows, width = dense
    if model and model != limits.name:
        return Refusal(Status.UNKNOWN_MODEL, f"this server has model {limits.name!r}, not {model!r:.80}")
    features = len(limits.feature_names)
    if width != limits.dense_width or keyed != (rows, features):
        want = f"dense [n, {limits.dense_width}] and features [n, {features}]"
        return Refusal(Status.INVALID, f"want {want}, got {[*dense]} and {[*keyed]}")
    if not rows:
        return Refusal(Status.INVALID, "want at least one row")
    if rows > limits.rows_max:
        return Refusal(Status.TOO_LARGE, f"want at most {limits.rows_max} rows, got {rows}")
    return None


def _refuse_ids(ids: Ids, limits: ModelLimits) -> Refusal | None:
    # memchr over the flags: numpy's all() costs seven times as much and does not say where.
    index = limits.below_end(ids).tobytes().find(0)
    if index < 0:
        return None
    row, feature = divmod(index, ids.shape[1])
    return _refuse_id(limits, feature, row, int(ids[row, feature]))


def _refuse_id(limits: ModelLimits, feature: int, row: int, value: int) -> Refusal:
    name, end = limits.feature_names[feature], limits.table_rows[feature]
    return Refusal(Status.OUT_OF_RANGE, f"feature {name!r}, row {row}: id {value} is not in [0, {end})")


def _refuse_lengths(lengths: Lengths, row_offsets: RowOffsets, values: Ids, limits: ModelLimits) -> Refusal | None:
    if lengths.min() < 0:
        return Refusal(Status.INVALID, "lengths want to be at least 0")
    if row_offsets[-1] != len(values):
        return Refusal(Status.INVALID, f"lengths add up to {row_offsets[-1]}, values has {len(values)}")
    row_ids = np.diff(row_offsets)
    row = int(row_ids.argmax())
    if row_ids[row] > limits.ids_per_row_max:
        detail = f"row {row} has {row_ids[row]} ids, at most {limits.ids_per_row_max} fit a batch"
        return Refusal(Status.TOO_LARGE, detail)
    return None


def _refuse_values(lengths: Lengths, values: Ids, limits: ModelLimits) -> Refusal | None:
    index = limits.bags_below_end(lengths, values).tobytes().find(0)
    if index < 0:
        return None
    bag = int(np.searchsorted(np.cumsum(lengths, dtype=np.int64), index, side="right"))
    row, feature = divmod(bag, lengths.shape[1])
    return _refuse_id(limits, feature, row, int(values[index]))


def _offsets(lengths: Lengths) -> RowOffsets:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths.sum(axis=1, dtype=np.int64), out=offsets[1:])
    return offsets

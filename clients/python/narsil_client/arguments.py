"""What a caller passes, checked and brought to the wire's dtypes before anything is sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import index
from reprlib import repr as brief
from typing import Any, Literal, Required, TypedDict

import numpy as np
import numpy.typing as npt

from narsil_transport.messages import Floats, Ids, InferRequest, Lengths, Mask, Priority, UserPart
from narsil_transport.wire import KEY_CHARS_MAX, TRACEPARENT_CHARS_MAX

# 11 days: far beyond any use, and inside the 32-bit milliseconds of a ZeroMQ timeout.
TIMEOUT_S_MAX = 1e6

# `bulk` waits for the room that `interactive` leaves in its batches.
PriorityName = Literal["interactive", "bulk"]

_PRIORITIES: Mapping[str, Priority] = {"interactive": Priority.INTERACTIVE, "bulk": Priority.BULK}
_F4, _I4, _I8 = np.dtype("<f4"), np.dtype("<i4"), np.dtype("<i8")
_INT32, _INT64 = np.iinfo(np.int32), np.iinfo(np.int64)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class User:
    """What is the same in every row of a request, to be sent once. The scores are those of plain rows, to the bit.

    `dense_columns` and `features` say which of the model's are the user's: either their numbers, ascending, or a bool
    for each of the model's [D], [T]. What they hold is in model order: dense [Du] numbers, and either ids [Tu], one id
    per feature, or lengths [Tu] and values [nnz]. The request's own arrays then have the other columns and features,
    in model order, which may be none ([n, 0]). Arrays are anything numpy.asarray takes.
    """

    dense_columns: npt.ArrayLike = ()
    dense: npt.ArrayLike = ()
    features: npt.ArrayLike = ()
    ids: npt.ArrayLike | None = None
    lengths: npt.ArrayLike | None = None
    values: npt.ArrayLike | None = None


class InferArguments(TypedDict, total=False):
    """The keywords of `predict` and `submit`; arrays are anything numpy.asarray takes, n is at least 1.

    dense [n, D] numbers, sent as float32. Either ids [n, T], one id per feature, or lengths [n, T] and values [nnz],
    sample-major (all bags of row 0, then of row 1), empty bags allowed. Ids keep int32 or int64; other integers become
    int64. `model` "" is the server's default. `deadline_us` is the server's budget in microseconds from receipt.
    `priority` "bulk" is for work that nobody waits for. `traceparent` is a W3C trace context of at most 64 characters.
    `user` takes the columns and features that all rows share; the arrays above are then [n, D - Du], [n, T - Tu].
    `key`, of at most 64 characters, names whoever the request is for: a server that splits requests over variants
    scores all of one key by the same.
    """

    dense: Required[npt.ArrayLike]
    ids: npt.ArrayLike | None
    lengths: npt.ArrayLike | None
    values: npt.ArrayLike | None
    model: str
    deadline_us: int | None
    priority: PriorityName
    traceparent: str | None
    user: User | None
    key: str | None


def infer_request(
    *,
    dense: npt.ArrayLike,
    ids: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    values: npt.ArrayLike | None = None,
    model: str = "",
    deadline_us: int | None = None,
    priority: PriorityName = "interactive",
    traceparent: str | None = None,
    user: User | None = None,
    key: str | None = None,
) -> InferRequest:
    """The request, not numbered yet. Raises ValueError in one sentence where the arguments cannot be sent."""
    if deadline_us is not None:
        deadline_us = index(deadline_us)
        if deadline_us < 1:
            raise ValueError(f"want deadline_us of at least 1, got {deadline_us}")
    if priority not in _PRIORITIES:
        raise ValueError(f"want priority {' or '.join(_PRIORITIES)}, got {priority!r}")
    if traceparent is not None and len(traceparent) > TRACEPARENT_CHARS_MAX:
        raise ValueError(f"want a traceparent of at most {TRACEPARENT_CHARS_MAX} characters, got {len(traceparent)}")
    if key is not None and len(key) > KEY_CHARS_MAX:
        raise ValueError(f"want a key of at most {KEY_CHARS_MAX} characters, got {len(key)}")
    floats = _floats("dense", dense, 2)
    integers, counts, bags = _keyed("", ids, lengths, values, 2)
    name, keyed = ("ids", integers) if counts is None else ("lengths", counts)
    assert keyed is not None
    if len(floats) != len(keyed):
        raise ValueError(f"dense has {len(floats)} rows, {name} has {len(keyed)}")
    width, features = floats.shape[1], keyed.shape[1]
    part = None
    if user is not None:
        part = _user_part(user, width, features)
        width, features = len(part.dense_mask), len(part.feature_mask)
    if not (len(floats) and width and features):
        raise ValueError(
            f"want at least one row, column and feature, got dense {floats.shape} and {name} {keyed.shape}"
        )
    return InferRequest(
        0, model, deadline_us, traceparent, floats, integers, counts, bags, _PRIORITIES[priority], part, key
    )


def _user_part(user: User, columns: int, features: int) -> UserPart:
    """The part of the user beside rows of so many columns and features."""
    if user.ids is None and user.lengths is None and user.values is None:
        # int32, for the ids of all become int64 where some are.
        part: tuple[Ids | None, Lengths | None, Ids | None] = np.empty(0, _I4), None, None
    else:
        part = _keyed("user ", user.ids, user.lengths, user.values, 1)
    dense_mask = _mask("dense_columns", user.dense_columns, columns)
    feature_mask = _mask("features", user.features, features)
    return UserPart(dense_mask, feature_mask, _floats("user dense", user.dense, 1), *part)


def _mask(name: str, given: npt.ArrayLike, others: int) -> Mask:
    """Which are the user's, where the rows have so many others."""
    array = _array(f"user {name}", given, 1)
    if array.dtype == np.bool_:
        left = array.size - np.count_nonzero(array)
        if left != others:
            raise ValueError(f"user {name} leaves {left} to the rows, which have {others}")
        return array
    _check_integers(f"user {name}", array, _INT64)
    mask = np.zeros(others + array.size, np.bool_)
    places = array.astype(np.int64)
    if array.size and (places[0] < 0 or places[-1] >= mask.size or (np.diff(places) < 1).any()):
        raise ValueError(f"user {name} wants ascending numbers in [0, {mask.size}), got {brief(array.tolist())}")
    mask[places] = True
    return mask


def timeout_ns(timeout_s: float) -> int:
    """Nanoseconds of a time-out in seconds. Raises ValueError outside (0, 1e6]."""
    if not 0 < timeout_s <= TIMEOUT_S_MAX:
        raise ValueError(f"want timeout_s above 0 and at most {TIMEOUT_S_MAX:.0f}, got {timeout_s}")
    return int(timeout_s * 1e9)


def _floats(name: str, given: npt.ArrayLike, ndim: int) -> Floats:
    array = _array(name, given, ndim)
    if array.dtype != _F4:
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name} wants numbers, got {array.dtype}")
        # What overflows float32 becomes infinite, which the server refuses by row and column.
        with np.errstate(over="ignore"):
            array = array.astype(_F4)
    return np.ascontiguousarray(array)


def _keyed(
    whose: str, ids: npt.ArrayLike | None, lengths: npt.ArrayLike | None, values: npt.ArrayLike | None, ndim: int
) -> tuple[Ids | None, Lengths | None, Ids | None]:
    if ids is not None and lengths is None and values is None:
        return _ids(f"{whose}ids", ids, ndim), None, None
    if ids is None and lengths is not None and values is not None:
        return None, _lengths(f"{whose}lengths", lengths, ndim), _ids(f"{whose}values", values, 1)
    raise ValueError(f"want either {whose}ids, or both {whose}lengths and {whose}values")


def _ids(name: str, given: npt.ArrayLike, ndim: int) -> Ids:
    array = _array(name, given, ndim)
    if array.dtype != _I4 and array.dtype != _I8:
        _check_integers(name, array, _INT64)
        array = array.astype(_I8)
    return np.ascontiguousarray(array)


def _lengths(name: str, given: npt.ArrayLike, ndim: int) -> Lengths:
    array = _array(name, given, ndim)
    if array.dtype != _I4:
        _check_integers(name, array, _INT32)
        array = array.astype(_I4)
    return np.ascontiguousarray(array)


def _array(name: str, given: npt.ArrayLike, ndim: int) -> npt.NDArray[Any]:
    array = np.asarray(given)
    if array.ndim != ndim:
        raise ValueError(f"{name} wants {ndim} dimension{'s' * (ndim > 1)}, got shape {array.shape}")
    return array


def _check_integers(name: str, array: npt.NDArray[Any], limits: "np.iinfo[Any]") -> None:
    if not array.size:  # numpy makes an empty list float64
        return
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} wants integers, got {array.dtype}")
    least, most = int(array.min()), int(array.max())
    if least < limits.min or most > limits.max:
        raise ValueError(f"{name} wants values that fit {limits.dtype}, got {least} to {most}")

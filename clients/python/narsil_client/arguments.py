"""What a caller passes, checked and brought to the wire's dtypes before anything is sent."""

from collections.abc import Mapping
from operator import index
from typing import Any, Literal, Required, TypedDict

import numpy as np
import numpy.typing as npt

from narsil_transport.messages import Floats, Ids, InferRequest, Lengths, Priority
from narsil_transport.wire import TRACEPARENT_CHARS_MAX

# 11 days: far beyond any use, and inside the 32-bit milliseconds of a ZeroMQ timeout.
TIMEOUT_S_MAX = 1e6

# `bulk` waits for the room that `interactive` leaves in its batches.
PriorityName = Literal["interactive", "bulk"]

_PRIORITIES: Mapping[str, Priority] = {"interactive": Priority.INTERACTIVE, "bulk": Priority.BULK}
_F4, _I4, _I8 = np.dtype("<f4"), np.dtype("<i4"), np.dtype("<i8")
_INT32, _INT64 = np.iinfo(np.int32), np.iinfo(np.int64)


class InferArguments(TypedDict, total=False):
    """The keywords of `predict` and `submit`; arrays are anything numpy.asarray takes, n is at least 1.

    dense [n, D] numbers, sent as float32. Either ids [n, T], one id per feature, or lengths [n, T] and values [nnz],
    sample-major (all bags of row 0, then of row 1), empty bags allowed. Ids keep int32 or int64; other integers become
    int64. `model` "" is the server's default. `deadline_us` is the server's budget in microseconds from receipt.
    `priority` "bulk" is for work that nobody waits for. `traceparent` is a W3C trace context of at most 64 characters.
    """

    dense: Required[npt.ArrayLike]
    ids: npt.ArrayLike | None
    lengths: npt.ArrayLike | None
    values: npt.ArrayLike | None
    model: str
    deadline_us: int | None
    priority: PriorityName
    traceparent: str | None


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
    floats, level = _floats(dense), _PRIORITIES[priority]
    if ids is not None and lengths is None and values is None:
        integers = _ids("ids", ids, 2)
        _check_rows(floats, "ids", integers)
        return InferRequest(0, model, deadline_us, traceparent, floats, integers, None, None, level)
    if ids is None and lengths is not None and values is not None:
        counts, bags = _lengths(lengths), _ids("values", values, 1)
        _check_rows(floats, "lengths", counts)
        return InferRequest(0, model, deadline_us, traceparent, floats, None, counts, bags, level)
    raise ValueError("want either ids, or both lengths and values")


def timeout_ns(timeout_s: float) -> int:
    """Nanoseconds of a time-out in seconds. Raises ValueError outside (0, 1e6]."""
    if not 0 < timeout_s <= TIMEOUT_S_MAX:
        raise ValueError(f"want timeout_s above 0 and at most {TIMEOUT_S_MAX:.0f}, got {timeout_s}")
    return int(timeout_s * 1e9)


def _floats(given: npt.ArrayLike) -> Floats:
    array = _array("dense", given, 2)
    if array.dtype != _F4:
        if array.dtype.kind not in "fiub":
            raise ValueError(f"dense wants numbers, got {array.dtype}")
        # What overflows float32 becomes infinite, which the server refuses by row and column.
        with np.errstate(over="ignore"):
            array = array.astype(_F4)
    return np.ascontiguousarray(array)


def _ids(name: str, given: npt.ArrayLike, ndim: int) -> Ids:
    array = _array(name, given, ndim)
    if array.dtype != _I4 and array.dtype != _I8:
        _check_integers(name, array, _INT64)
        array = array.astype(_I8)
    return np.ascontiguousarray(array)


def _lengths(given: npt.ArrayLike) -> Lengths:
    array = _array("lengths", given, 2)
    if array.dtype != _I4:
        _check_integers("lengths", array, _INT32)
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


def _check_rows(dense: Floats, name: str, keyed: npt.NDArray[Any]) -> None:
    rows, width = dense.shape
    keyed_rows, features = keyed.shape
    if rows != keyed_rows:
        raise ValueError(f"dense has {rows} rows, {name} has {keyed_rows}")
    if not (rows and width and features):
        raise ValueError(f"want at least one row, column and feature, got dense {dense.shape} and {name} {keyed.shape}")

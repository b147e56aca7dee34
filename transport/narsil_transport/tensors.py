"""A tensor frame and the `[name, dtype, shape]` that describes it."""

from collections.abc import Mapping
from math import prod
from reprlib import repr as brief  # bounded in depth too: a plain repr of a deep array would overflow the stack
from typing import Any

import numpy as np
import numpy.typing as npt

from narsil_transport.header import WireError

Frame = bytes | memoryview

FLOATS, INTEGERS, LENGTHS = ("f4",), ("i4", "i8"), ("i4",)

_DTYPES: Mapping[str, np.dtype[Any]] = {code: np.dtype(f"<{code}") for code in ("f4", "i4", "i8")}
_CODES: Mapping[np.dtype[Any], str] = {dtype: code for code, dtype in _DTYPES.items()}


def view_tensor(spec: object, frame: Frame, name: str, codes: tuple[str, ...], ndim: int) -> npt.NDArray[Any]:
    """The frame as the array that `spec` says it is; raises WireError unless that is `name`, of one of these codes."""
    if type(spec) is not list or len(spec) != 3 or spec[0] != name:
        raise WireError(f"want [{name!r}, dtype, shape], got {brief(spec)}")
    code, shape = spec[1], spec[2]
    if code not in codes:
        raise WireError(f"{name} wants dtype {' or '.join(codes)}, got {brief(code)}")
    if type(shape) is not list or len(shape) != ndim:
        raise WireError(f"{name} wants {ndim} dimensions, got {brief(shape)}")
    # numpy proves the dimensions: anything but sizes that fit this frame is an error, nothing is allocated.
    try:
        array: npt.NDArray[Any] = np.ndarray(shape, _DTYPES[code], frame)
    except (TypeError, ValueError):
        raise WireError(f"{name} cannot have shape {brief(shape)} in {len(frame)} bytes") from None
    if array.nbytes != len(frame):
        raise WireError(f"{name} {shape} wants {array.nbytes} bytes, got {len(frame)}")
    return array


def tensor_bytes(spec: object) -> int:
    """How many bytes the tensor that `spec` describes has, however many that is; raises WireError."""
    if type(spec) is not list or len(spec) != 3:
        raise WireError(f"want [name, dtype, shape], got {brief(spec)}")
    code, shape = spec[1], spec[2]
    if type(code) is not str or code not in _DTYPES:
        raise WireError(f"want one of {', '.join(_DTYPES)}, got {brief(code)}")
    if type(shape) is not list or any(type(size) is not int or size < 0 for size in shape):
        raise WireError(f"a shape wants unsigned integers, got {brief(shape)}")
    return _DTYPES[code].itemsize * prod(shape)


def describe_tensor(name: str, array: npt.NDArray[Any]) -> tuple[str, str, tuple[int, ...]]:
    """What `view_tensor` wants of this array; raises WireError on a dtype the wire does not carry."""
    code = _CODES.get(array.dtype)
    if code is None:
        raise WireError(f"{name} wants one of {', '.join(_DTYPES)}, got {array.dtype}")
    return name, code, array.shape

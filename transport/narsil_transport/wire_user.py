"""The user's part of an INFER on the wire: two masks in the header, two or three tensors behind those of the items."""

from collections.abc import Sequence
from reprlib import repr as brief  # bounded in depth too: a plain repr of a deep array would overflow the stack
from typing import Any

import numpy as np
import numpy.typing as npt

from narsil_transport.header import WireError
from narsil_transport.messages import Mask, UserPart
from narsil_transport.tensors import FLOATS, INTEGERS, LENGTHS, Frame, view_tensor


def items_of(specs: Sequence[object]) -> int:
    """How many of these tensors are the items': 3 with bags, told by the name of the second, else 2."""
    second = specs[1]
    items = 3 if type(second) is list and second[:1] == ["lengths"] else 2
    if len(specs) - items not in (2, 3):
        raise WireError(f"'t' wants 2 or 3 entries of the items, then 2 or 3 of the user, got {brief(specs)}")
    return items


def read_user(
    masks: object, specs: Sequence[object], tensors: Sequence[Frame], columns: int, features: int
) -> UserPart:
    """The user's part, where the items have so many columns and features; raises WireError."""
    if type(masks) is not list or len(masks) != 2:
        raise WireError(f"'u' wants [dense mask, feature mask], got {brief(masks)}")
    dense = view_tensor(specs[0], tensors[0], "user_dense", FLOATS, 1)
    ids = lengths = values = None
    if len(specs) == 2:
        keys = ids = view_tensor(specs[1], tensors[1], "user_ids", INTEGERS, 1)
    else:
        keys = lengths = view_tensor(specs[1], tensors[1], "user_lengths", LENGTHS, 1)
        values = view_tensor(specs[2], tensors[2], "user_values", INTEGERS, 1)
    dense_mask = _mask("dense columns", masks[0], columns + len(dense))
    feature_mask = _mask("features", masks[1], features + len(keys))
    try:
        return UserPart(dense_mask, feature_mask, dense, ids, lengths, values)
    except ValueError as error:
        raise WireError(str(error)) from None


def _mask(name: str, given: object, count: int) -> Mask:
    if not count:
        raise WireError(f"want at least one of the {name}, of the items or the user")
    if type(given) is not bytes or len(given) != (count + 7) // 8:
        raise WireError(f"'u' wants {(count + 7) // 8} bytes for {count} {name}, got {brief(given)}")
    bits = np.unpackbits(np.frombuffer(given, np.uint8), bitorder="little")
    if bits[count:].any():
        raise WireError(f"'u' has bits beyond the {count} {name}")
    return bits[:count].view(np.bool_)


def masks_of(user: UserPart) -> tuple[bytes, bytes]:
    """The dense mask and the feature mask, bit i of byte i // 8 counted from the lowest."""
    dense, features = (np.packbits(mask, bitorder="little") for mask in (user.dense_mask, user.feature_mask))
    return dense.tobytes(), features.tobytes()


def tensors_of_user(user: UserPart) -> list[tuple[str, npt.NDArray[Any]]]:
    """Its tensors by their names on the wire, in order."""
    named = (
        ("user_dense", user.dense),
        ("user_ids", user.ids),
        ("user_lengths", user.lengths),
        ("user_values", user.values),
    )
    return [(name, array) for name, array in named if array is not None]

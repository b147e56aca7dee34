"""A request whose user features came once, as the plain request that repeats them in every row. Pure."""

from typing import Any

import numpy as np
import numpy.typing as npt

from narsil_transport.messages import Ids, InferRequest, Lengths, Mask, UserPart
from narsil_transport.status import Refusal, Status


def expanded(
    request: InferRequest, user: UserPart, *, ids_per_row_max: int, bag_ids_max: int
) -> InferRequest | Refusal:
    """The plain request, or why its bags cannot be made, which is known before they are allocated.

    Rows and widths must have been checked; where every feature has one id, these bound the result. Bags are bounded by
    `ids_per_row_max` in each row and `bag_ids_max` in all. Ids become int64 if either part's are.
    """
    ids = lengths = values = None
    if request.ids is not None and user.ids is not None:
        ids = _spread(request.ids, user.ids, user.feature_mask)
    else:
        items, users = _bags(request.ids, request.lengths, request.values), _bags(user.ids, user.lengths, user.values)
        if items is None or users is None:
            return Refusal(Status.INVALID, "want either ids, or lengths and values")
        refusal = _refuse_bags(*items, *users, ids_per_row_max, bag_ids_max)
        if refusal is not None:
            return refusal
        lengths = _spread(items[0], users[0], user.feature_mask)
        values = _spread_values(lengths, items[1], users[1], user.feature_mask)
    dense = _spread(request.dense, user.dense, user.dense_mask)
    return InferRequest(
        request.request_id,
        request.model,
        request.deadline_us,
        request.traceparent,
        dense,
        ids,
        lengths,
        values,
        request.priority,
        key=request.key,
    )


def _bags(ids: Ids | None, lengths: Lengths | None, values: Ids | None) -> tuple[Lengths, Ids] | None:
    """Lengths and values, where one id per feature is a bag of one."""
    if ids is not None:
        return np.ones(ids.shape, np.int32), ids.reshape(-1)
    return None if lengths is None or values is None else (lengths, values)


def _refuse_bags(
    lengths: Lengths,
    values: Ids,
    user_lengths: Lengths,
    user_values: Ids,
    ids_per_row_max: int,
    bag_ids_max: int,
) -> Refusal | None:
    if min(lengths.min(initial=0), user_lengths.min(initial=0)) < 0:
        return Refusal(Status.INVALID, "lengths want to be at least 0")
    row_ids, user_ids = lengths.sum(axis=1, dtype=np.int64), int(user_lengths.sum(dtype=np.int64))
    ids = int(row_ids.sum())
    for name, total, given in (("", ids, len(values)), ("user_", user_ids, len(user_values))):
        if total != given:
            return Refusal(Status.INVALID, f"{name}lengths add up to {total}, {name}values has {given}")
    row = int(row_ids.argmax())
    if row_ids[row] + user_ids > ids_per_row_max:
        detail = f"row {row} has {row_ids[row] + user_ids} ids, at most {ids_per_row_max} fit a batch"
        return Refusal(Status.TOO_LARGE, detail)
    ids += len(lengths) * user_ids
    if ids > bag_ids_max:
        return Refusal(Status.TOO_LARGE, f"with the user's in each row there are {ids} ids, at most {bag_ids_max} fit")
    return None


def _spread(items: npt.NDArray[Any], user: npt.NDArray[Any], mask: Mask) -> npt.NDArray[Any]:
    """Items [n, k] and the user's [m] as one array [n, k + m], the user's where the mask says."""
    together = np.empty((len(items), len(mask)), np.promote_types(items.dtype, user.dtype))
    together[:, mask] = user
    together[:, ~mask] = items
    return together


def _spread_values(lengths: Lengths, values: Ids, user_values: Ids, mask: Mask) -> npt.NDArray[Any]:
    """The values of bags of these lengths [n, T]: both parts are row by row and in a row feature by feature already."""
    rows = len(lengths)
    from_user = np.repeat(np.tile(mask, rows), lengths.reshape(-1))
    together = np.empty(len(from_user), np.promote_types(values.dtype, user_values.dtype))
    together[from_user] = np.tile(user_values, rows)
    together[~from_user] = values
    return together

"""Requests with a user's part, each beside the plain request that it stands for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from narsil_transport.admission import ModelLimits
from narsil_transport.wire import InferRequest, UserPart

TABLE_ROWS = 50
Bags = list[list[int]]


def wide_limits(
    *, width: int, features: int, rows_max: int = 64, ids_per_row_max: int = 64, expanded_ids_max: int = 1 << 20
) -> ModelLimits:
    return ModelLimits(
        name="dlrm",
        dense_width=width,
        table_rows=np.full(features, TABLE_ROWS),
        feature_names=tuple(f"f{number}" for number in range(features)),
        rows_max=rows_max,
        ids_per_row_max=ids_per_row_max,
        expanded_ids_max=expanded_ids_max,
    )


def user_once(
    rows: int = 3, *, dense_mask: str = "10", feature_mask: str = "101", dtype: npt.DTypeLike = np.int32
) -> InferRequest:
    """Row r has dense r + 1 and ids 1 in its own columns, the user has dense 0.5 and ids 4."""
    columns, features = (np.array([digit == "1" for digit in mask]) for mask in (dense_mask, feature_mask))
    dense = np.repeat(np.arange(1, rows + 1, dtype=np.float32)[:, None], np.count_nonzero(~columns), axis=1)
    ids: npt.NDArray[Any] = np.ones((rows, np.count_nonzero(~features)), np.int32)
    user_dense = np.full(np.count_nonzero(columns), 0.5, np.float32)
    user = UserPart(columns, features, user_dense, np.full(np.count_nonzero(features), 4, dtype))
    return InferRequest(1, "", None, None, dense, ids, None, None, user=user)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two requests that must be the same once admitted."""

    split: InferRequest
    plain: InferRequest


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    """Random masks, and each part one-hot or in bags, of int32 or int64."""
    rows = draw(st.integers(1, 5))
    columns = np.array(draw(st.lists(st.booleans(), min_size=1, max_size=18)))
    features = np.array(draw(st.lists(st.booleans(), min_size=1, max_size=18)))
    floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
    user_dense = np.array([draw(floats) for _ in range(np.count_nonzero(columns))], np.float32)
    dense = np.empty((rows, len(columns)), np.float32)
    for row in range(rows):
        for column, ours in enumerate(columns):
            dense[row, column] = user_dense[np.count_nonzero(columns[:column])] if ours else draw(floats)
    in_bags, user_in_bags = draw(st.booleans()), draw(st.booleans())
    dtypes: st.SearchStrategy[np.dtype[Any]] = st.sampled_from((np.dtype(np.int32), np.dtype(np.int64)))
    dtype, user_dtype = draw(dtypes), draw(dtypes)

    def bag(many: bool) -> list[int]:
        return draw(st.lists(st.integers(0, TABLE_ROWS - 1), min_size=0 if many else 1, max_size=3 if many else 1))

    user_bags = {feature: bag(user_in_bags) for feature, ours in enumerate(features) if ours}
    rows_of_bags = [
        [user_bags[feature] if ours else bag(in_bags) for feature, ours in enumerate(features)] for _ in range(rows)
    ]
    items = [[bag for bag, ours in zip(row, features, strict=True) if not ours] for row in rows_of_bags]
    user = UserPart(columns, features, user_dense, *keyed([[*user_bags.values()]], user_dtype, user_in_bags, flat=True))
    split = InferRequest(
        5, "dlrm", 900, "00-a", dense[:, ~columns], *keyed(items, dtype, in_bags, flat=False), user=user
    )
    both = np.promote_types(dtype, user_dtype)
    plain_keys = keyed(rows_of_bags, both, in_bags or user_in_bags, flat=False)
    return Pair(split, InferRequest(5, "dlrm", 900, "00-a", dense, *plain_keys))


def keyed(rows: list[Bags], dtype: np.dtype[Any], in_bags: bool, *, flat: bool) -> tuple[Any, Any, Any]:
    """Ids, lengths and values of these bags; `flat` is for the user's one row."""
    shape = (len(rows[0]),) if flat else (len(rows), len(rows[0]))
    lengths = np.array([len(bag) for row in rows for bag in row], np.int32).reshape(shape)
    values = np.array([value for row in rows for bag in row for value in bag], dtype)
    return (None, lengths, values) if in_bags else (values.reshape(lengths.shape), None, None)

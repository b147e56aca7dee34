from typing import Any

import numpy as np
import pytest

from narsil_client.arguments import InferArguments, User, infer_request, timeout_ns
from narsil_transport.messages import UserPart

DENSE = np.ones((2, 3), np.float32)
IDS = np.ones((2, 4), np.int32)


def test_arrays_in_wire_form_are_not_copied() -> None:
    request = infer_request(dense=DENSE, ids=IDS)
    assert request.dense is DENSE
    assert request.ids is IDS


def test_float64_dense_becomes_float32() -> None:
    request = infer_request(dense=[[0.1, 2.0]], ids=[[1]])
    assert request.dense.dtype == np.float32
    assert request.dense.tolist() == [[np.float32(0.1), 2.0]]


def test_dense_that_overflows_float32_becomes_infinite_without_a_warning() -> None:
    assert np.isinf(infer_request(dense=[[1e300]], ids=[[1]]).dense).all()


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_ids_keep_their_width(dtype: type[np.integer]) -> None:
    ids = infer_request(dense=DENSE, ids=IDS.astype(dtype)).ids
    assert ids is not None
    assert ids.dtype == dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, np.dtype(">i4")])
def test_other_integer_ids_become_int64(dtype: type[np.integer]) -> None:
    ids = infer_request(dense=DENSE, ids=IDS.astype(dtype)).ids
    assert ids is not None
    assert ids.dtype == np.dtype("<i8")
    assert (ids == 1).all()


def test_arrays_are_made_contiguous() -> None:
    wide = np.arange(12, dtype=np.float32).reshape(2, 6)
    request = infer_request(dense=wide[:, ::2], ids=np.asfortranarray(IDS))
    assert request.dense.tobytes() == wide[:, ::2].tobytes()
    assert request.dense.flags.c_contiguous
    assert request.ids is not None
    assert request.ids.flags.c_contiguous


def test_lengths_become_int32() -> None:
    request = infer_request(dense=DENSE, lengths=[[1, 0], [0, 2]], values=[7, 8, 9])
    assert request.lengths is not None
    assert request.values is not None
    assert request.lengths.dtype == np.int32
    assert request.values.tolist() == [7, 8, 9]


def test_an_empty_list_of_values_is_integers() -> None:
    values = infer_request(dense=DENSE, lengths=[[0], [0]], values=[]).values
    assert values is not None
    assert values.dtype == np.int64


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"dense": DENSE}, "either ids, or both"),
        ({"dense": DENSE, "ids": IDS, "values": [1]}, "either ids, or both"),
        ({"dense": DENSE, "lengths": IDS}, "either ids, or both"),
        ({"dense": DENSE[0], "ids": IDS}, r"dense wants 2 dimensions, got shape \(3,\)"),
        ({"dense": DENSE, "ids": [1, 2]}, r"ids wants 2 dimensions, got shape \(2,\)"),
        ({"dense": DENSE, "lengths": IDS, "values": IDS}, "values wants 1 dimension, "),
        ({"dense": DENSE, "ids": IDS[:1]}, "dense has 2 rows, ids has 1"),
        ({"dense": DENSE, "lengths": IDS[:1], "values": [1]}, "dense has 2 rows, lengths has 1"),
        ({"dense": DENSE[:0], "ids": IDS[:0]}, "at least one row"),
        ({"dense": DENSE[:, :0], "ids": IDS}, "at least one row, column"),
        ({"dense": DENSE, "ids": IDS.astype(float)}, "ids wants integers, got float64"),
        ({"dense": DENSE, "lengths": [[1.0], [1.0]], "values": [1, 2]}, "lengths wants integers"),
        ({"dense": [["a"]], "ids": [[1]]}, "dense wants numbers"),
        ({"dense": [[1.0]], "ids": np.full((1, 1), 2**63, np.uint64)}, "fit int64"),
        ({"dense": [[1.0]], "lengths": [[2**31]], "values": [1]}, "fit int32"),
        ({"dense": DENSE, "ids": IDS, "deadline_us": 0}, "deadline_us of at least 1"),
        ({"dense": DENSE, "ids": IDS, "priority": "urgent"}, "priority interactive or bulk, got 'urgent'"),
        ({"dense": DENSE, "ids": IDS, "traceparent": "0" * 65}, "at most 64 characters"),
        ({"dense": DENSE, "ids": IDS, "key": "k" * 65}, "want a key of at most 64 characters, got 65"),
    ],
)
def test_what_cannot_be_sent_is_a_value_error(arguments: InferArguments, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        infer_request(**arguments)


# Of a model of five dense columns and six features, DENSE and IDS have three and four.
USER = User(dense_columns=[0, 4], dense=[0.5, 1], features=[2, 3], ids=[7, 8])


def user_part(user: User) -> UserPart:
    part = infer_request(dense=DENSE, ids=IDS, user=user).user
    assert part is not None
    return part


def test_user_is_placed_by_numbers() -> None:
    part = user_part(USER)
    assert part.dense_mask.tolist() == [True, False, False, False, True]
    assert part.feature_mask.tolist() == [False, False, True, True, False, False]
    assert part.ids is not None
    assert (part.dense.tolist(), part.ids.tolist()) == ([0.5, 1.0], [7, 8])
    assert part.dense.dtype == np.float32
    assert part.ids.dtype == np.int64
    assert part.lengths is None
    assert part.values is None


def test_user_is_placed_by_masks() -> None:
    columns, features = [True, False, False, False, True], np.array([0, 0, 1, 1, 0, 0], bool)
    by_numbers = user_part(USER)
    by_masks = user_part(User(dense_columns=columns, dense=[0.5, 1], features=features, ids=[7, 8]))
    assert by_masks.dense_mask.tolist() == by_numbers.dense_mask.tolist()
    assert by_masks.feature_mask.tolist() == by_numbers.feature_mask.tolist()


def test_user_may_have_bags() -> None:
    part = user_part(User(features=[0, 1], lengths=[2, 0], values=[7, 8]))
    assert part.ids is None
    assert part.lengths is not None
    assert part.values is not None
    assert part.lengths.dtype == np.int32
    assert (part.lengths.tolist(), part.values.tolist()) == ([2, 0], [7, 8])


def test_user_without_features_leaves_the_width_of_ids() -> None:
    part = user_part(User(dense_columns=[1], dense=[1]))
    assert part.ids is not None
    assert part.ids.dtype == np.int32
    assert (part.ids.size, part.feature_mask.tolist()) == (0, [False] * 4)


def test_rows_may_have_nothing_of_their_own() -> None:
    user = User(dense_columns=[0], dense=[0.5], features=[0], ids=[7])
    request = infer_request(dense=np.empty((9, 0)), ids=np.empty((9, 0)), user=user)
    assert request.rows == 9


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ({"dense_columns": [0]}, r"user's dense wants shape \[1\], as its mask says, got \[0\]"),
        ({"dense": [1.0]}, r"user's dense wants shape \[0\]"),
        ({"dense_columns": [0], "dense": [[1.0]]}, "user dense wants 1 dimension,"),
        ({"dense_columns": [0], "dense": ["a"]}, "user dense wants numbers"),
        ({"dense_columns": [[0]], "dense": [1.0]}, "user dense_columns wants 1 dimension,"),
        ({"dense_columns": [0.0], "dense": [1.0]}, "user dense_columns wants integers"),
        ({"dense_columns": [1, 0], "dense": [1, 1]}, r"ascending numbers in \[0, 5\), got \[1, 0\]"),
        ({"dense_columns": [1, 1], "dense": [1, 1]}, "ascending numbers"),
        ({"dense_columns": [-1], "dense": [1]}, "ascending numbers"),
        ({"dense_columns": [4], "dense": [1]}, r"ascending numbers in \[0, 4\), got \[4\]"),
        ({"dense_columns": [True, False, False], "dense": [1]}, "leaves 2 to the rows, which have 3"),
        ({"features": [0]}, r"user's ids want shape \[1\]"),
        ({"features": [0], "ids": [[1]]}, "user ids wants 1 dimension,"),
        ({"features": [0], "ids": [1.5]}, "user ids wants integers"),
        ({"features": [0], "lengths": [1]}, "either user ids, or both"),
        ({"features": [0], "ids": [1], "values": [1]}, "either user ids, or both"),
        ({"features": [0], "lengths": [1, 1], "values": [1]}, r"user's lengths want shape \[1\]"),
        ({"features": [6], "ids": [1]}, r"features wants ascending numbers in \[0, 5\)"),
    ],
)
def test_a_user_that_does_not_fit_is_a_value_error(user: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        infer_request(dense=DENSE, ids=IDS, user=User(**user))


def test_a_user_does_not_make_up_for_rows() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        infer_request(dense=DENSE[:0], ids=IDS[:0], user=USER)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_timeout_is_positive_and_finite(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        timeout_ns(timeout_s)

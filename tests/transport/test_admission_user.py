"""A request with a user's part enters as the plain request that it stands for, and never costs more than it may."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from narsil_transport.admission import Admitted, ModelLimits, admit
from narsil_transport.status import Refusal, Status
from narsil_transport.wire import InferRequest, UserPart, decode_request, encode_request
from tests.transport.requests import admitted, limits
from tests.transport.user_requests import Pair, pairs, user_once, wide_limits


def refused(request: InferRequest, within: ModelLimits | None = None) -> Refusal:
    answer = admit(request, limits=within or limits(), now_ns=0, route=None)
    assert isinstance(answer, Refusal), answer
    return answer


def bits(array: Any) -> object:
    return None if array is None else (array.dtype, array.shape, array.tobytes())


@given(pairs())
def test_expanded_request_is_the_plain_one_to_the_bit(pair: Pair) -> None:
    head, *tensors = encode_request(pair.split)
    arrived = decode_request(head, tensors)
    assert isinstance(arrived, InferRequest) and arrived.user is not None
    within = wide_limits(width=len(arrived.user.dense_mask), features=len(arrived.user.feature_mask))
    got, want = admitted(arrived, within=within), admitted(pair.plain, within=within)
    for name in ("dense", "ids", "lengths", "values"):
        assert bits(getattr(got.request, name)) == bits(getattr(want.request, name)), name
    assert bits(got.row_offsets) == bits(want.row_offsets) and got.request.user is None
    assert (got.rows, got.ids, got.ids_per_row, got.due_ns) == (want.rows, want.ids, want.ids_per_row, want.due_ns)


def test_everything_else_of_the_request_is_kept() -> None:
    request = user_once()
    request.request_id, request.model, request.deadline_us, request.traceparent = 9, "dlrm", 4, "00-a"
    request.key = "u1"
    plain = admitted(request).request
    assert (plain.request_id, plain.model, plain.deadline_us, plain.traceparent) == (9, "dlrm", 4, "00-a")
    assert plain.priority is request.priority and plain.key == "u1"


def test_ids_are_int64_if_either_part_is() -> None:
    ids = admitted(user_once(dtype=np.int64, feature_mask="100")).request.ids
    assert ids is not None and ids.dtype == np.int64 and ids.tolist() == [[4, 1, 1]] * 3


@pytest.mark.parametrize(("dense_mask", "feature_mask"), [("1", "101"), ("10", "1010"), ("100", "101")])
def test_wrong_widths_are_invalid(dense_mask: str, feature_mask: str) -> None:
    answer = refused(user_once(dense_mask=dense_mask, feature_mask=feature_mask))
    assert answer.status is Status.INVALID and "got" in answer.detail


def test_another_model_is_said_before_its_widths() -> None:
    request = user_once(dense_mask="1")
    request.model = "other"
    assert refused(request).status is Status.UNKNOWN_MODEL


def test_no_rows_are_invalid() -> None:
    assert "one row" in refused(user_once(0)).detail


def test_bad_value_of_the_user_is_refused_with_its_place() -> None:
    request = user_once()
    assert request.user is not None and request.user.ids is not None
    request.user.ids[1] = 9
    assert refused(request).detail == "feature 'country', row 0: id 9 is not in [0, 5)"
    request.user.dense[0] = np.nan
    assert refused(request).detail == "dense row 0, column 0 is nan"


def bag_request(rows: int, lengths: list[int], user_lengths: list[int]) -> InferRequest:
    """Every row has these bags in the model's second column, the user in its first."""
    dense, values = np.zeros((rows, 1), np.float32), np.zeros(max(rows * sum(lengths), 0), np.int32)
    user_values = np.zeros(max(sum(user_lengths), 0), np.int32)
    masks = np.array([True, False]), np.array([True] * len(user_lengths) + [False] * len(lengths))
    user = UserPart(*masks, np.zeros(1, np.float32), None, np.array(user_lengths, np.int32), user_values)
    bags = np.tile(np.array(lengths, np.int32), (rows, 1))
    return InferRequest(1, "", None, None, dense, None, bags, values, user=user)


def test_row_with_more_ids_than_a_batch_holds_is_too_large() -> None:
    assert admitted(bag_request(2, [3], [5, 0]))
    answer = refused(bag_request(2, [3], [5, 1]))
    assert answer.status is Status.TOO_LARGE and "row 0 has 9 ids" in answer.detail


def test_user_ids_times_rows_are_bounded() -> None:
    within = wide_limits(width=2, features=3, ids_per_row_max=1000, expanded_ids_max=404)
    assert admitted(bag_request(4, [1], [100, 0]), within=within)
    answer = refused(bag_request(4, [1], [100, 1]), within)
    assert answer.status is Status.TOO_LARGE and "408 ids" in answer.detail


@pytest.mark.parametrize(
    ("lengths", "user_lengths"), [([-1], [1, 1]), ([1], [-1, 1]), ([1], [-2, 2]), ([-(2**31)], [1, 1])]
)
def test_negative_lengths_are_invalid(lengths: list[int], user_lengths: list[int]) -> None:
    answer = refused(bag_request(2, lengths, user_lengths))
    assert answer.status is Status.INVALID and "at least 0" in answer.detail


def test_lengths_that_do_not_add_up_are_invalid() -> None:
    request = bag_request(2, [1], [1, 1])
    assert request.values is not None and request.user is not None
    user, request.values = request.user, request.values[:1]
    assert "lengths add up to 2, values has 1" in refused(request).detail
    request = bag_request(2, [1], [1, 1])
    shorter = None, user.lengths, np.zeros(1, np.int32)
    request.user = UserPart(user.dense_mask, user.feature_mask, user.dense, *shorter)
    assert "user_lengths add up to 2, user_values has 1" in refused(request).detail


def test_request_without_any_ids_is_invalid() -> None:
    request = user_once()
    request.ids = None
    assert refused(request).status is Status.INVALID


@pytest.mark.parametrize("in_bags", [False, True])
@pytest.mark.parametrize("rows", [65, 1 << 40])
def test_rows_that_cost_their_sender_nothing_are_refused_before_they_are_made(rows: int, in_bags: bool) -> None:
    shape = (rows, 0)
    request = user_once(1, dense_mask="11", feature_mask="111")
    request.dense = np.ndarray(shape, np.float32, b"")
    nothing = np.ndarray(shape, np.int32, b"")
    if in_bags:
        request.ids, request.lengths, request.values = None, nothing, np.zeros(0, np.int32)
    else:
        request.ids = nothing
    head, *tensors = encode_request(request)
    arrived = decode_request(head, tensors)
    assert isinstance(arrived, InferRequest) and arrived.rows == rows
    answer, peak_bytes = refused_at_a_peak_of(arrived, limits())
    assert answer.status is Status.TOO_LARGE and peak_bytes < 1 << 16


def refused_at_a_peak_of(request: InferRequest, within: ModelLimits) -> tuple[Refusal, int]:
    tracemalloc.start()
    try:
        return refused(request, within), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_bags_over_the_limit_are_refused_before_they_are_made() -> None:
    # A thousand rows of nothing and 40,000 ids of the user: 160 kB that would become 320 MB.
    request = bag_request(1000, [], [40_000])
    within = wide_limits(width=2, features=1, rows_max=1000, ids_per_row_max=50_000)
    answer, peak_bytes = refused_at_a_peak_of(request, within)
    assert answer.status is Status.TOO_LARGE and "40000000 ids" in answer.detail
    assert peak_bytes < 1 << 20


def test_user_of_everything_needs_only_the_number_of_rows() -> None:
    entered = admitted(user_once(4, dense_mask="11", feature_mask="111"), within=wide_limits(width=2, features=3))
    assert isinstance(entered, Admitted) and entered.rows == 4
    assert entered.request.ids is not None and entered.request.ids.tolist() == [[4, 4, 4]] * 4

"""What may enter: every rule of admission, and the arithmetic behind its fast checks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narsil_transport.admission import PATIENCE_NS, Admitted, ModelLimits, admit
from narsil_transport.messages import Ids, Priority
from narsil_transport.status import Refusal, Status
from narsil_transport.wire import InferRequest
from tests.transport.requests import FEATURES, admitted, limits, multi_hot, one_hot


def refused(request: InferRequest, within: ModelLimits | None = None) -> Refusal:
    answer = admit(request, limits=within or limits(), now_ns=0, route=None)
    assert isinstance(answer, Refusal), answer
    return answer


def test_one_hot_request_enters_with_its_counts_and_route() -> None:
    route, request = object(), one_hot(4, deadline_us=3)
    entered = admit(request, limits=limits(), now_ns=500, route=route)
    assert isinstance(entered, Admitted) and entered.route is route and entered.request is request
    assert (entered.rows, entered.ids, entered.ids_per_row, entered.row_offsets) == (4, 12, 3, None)
    assert (entered.admitted_ns, entered.deadline_ns) == (500, 3500)


def test_multi_hot_request_enters_with_its_row_offsets() -> None:
    entered = admitted(multi_hot([[2, 0, 1], [0, 0, 0], [0, 1, 0]], [9, 0, 4, 19]))
    assert entered.row_offsets is not None and entered.row_offsets.tolist() == [0, 3, 3, 4]
    assert (entered.rows, entered.ids, entered.deadline_ns) == (3, 4, None)


def entered_by_default(request: InferRequest) -> Admitted:
    entered = admit(request, limits=limits(), now_ns=500, route=None, default_deadline_us=7)
    assert isinstance(entered, Admitted)
    return entered


def test_request_is_due_at_its_deadline_or_when_patience_ends() -> None:
    assert admitted(one_hot(1, deadline_us=3), now_ns=500).due_ns == 3500
    assert admitted(one_hot(1), now_ns=500).due_ns == 500 + PATIENCE_NS


def test_default_deadline_is_for_a_request_that_names_none() -> None:
    entered = entered_by_default(one_hot(1))
    assert (entered.deadline_ns, entered.due_ns) == (7500, 7500)
    assert entered_by_default(one_hot(1, deadline_us=3)).deadline_ns == 3500


def test_bulk_has_a_deadline_only_if_it_names_one() -> None:
    entered = entered_by_default(one_hot(1, priority=Priority.BULK))
    assert (entered.bulk, entered.deadline_ns, entered.due_ns) == (True, None, 500 + PATIENCE_NS)
    assert entered_by_default(one_hot(1, deadline_us=3, priority=Priority.BULK)).deadline_ns == 3500
    assert not admitted(one_hot(1)).bulk


def test_model_goes_by_its_name_or_none() -> None:
    request = one_hot(1)
    request.model = "dlrm"
    assert admitted(request)
    request.model = "other"
    assert refused(request).status is Status.UNKNOWN_MODEL


def test_wrong_widths_are_invalid() -> None:
    narrow, few = one_hot(2), one_hot(2)
    narrow.dense = np.zeros((2, 1), np.float32)
    few.ids = np.zeros((2, 2), np.int32)
    assert refused(narrow).status is Status.INVALID
    assert refused(few).status is Status.INVALID


def test_no_rows_are_invalid() -> None:
    assert refused(one_hot(0)).status is Status.INVALID
    assert refused(multi_hot([], [])).status is Status.INVALID


def test_rows_over_the_limit_are_too_large() -> None:
    assert admitted(one_hot(64))
    assert refused(one_hot(65)).status is Status.TOO_LARGE


def test_request_without_any_ids_is_invalid() -> None:
    request = one_hot(1)
    request.ids = None
    assert refused(request).status is Status.INVALID


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_value_is_refused_with_its_place(value: float) -> None:
    request = one_hot(3)
    request.dense[2, 1] = value
    answer = refused(request)
    assert answer.status is Status.NOT_FINITE and "row 2, column 1" in answer.detail
    assert admitted(request, within=limits(allow_nonfinite=True))


def test_largest_floats_are_finite_though_their_sum_is_not() -> None:
    request = one_hot(64)
    request.dense[:] = np.finfo(np.float32).max
    assert admitted(request)


@pytest.mark.parametrize("ids", [np.ones((3, FEATURES), np.int32), np.ones((3, FEATURES), np.int64)])
@pytest.mark.parametrize("value", [-1, 20, 2**31 - 1, -(2**31)])
def test_id_outside_its_table_is_refused_by_name(value: int, ids: Ids) -> None:
    request = one_hot(3)
    request.ids = ids.copy()
    request.ids[2, 1] = value
    answer = refused(request)
    assert answer.status is Status.OUT_OF_RANGE
    assert answer.detail == f"feature 'item', row 2: id {value} is not in [0, 20)"


def test_table_beyond_int32_takes_every_id_that_is_not_negative() -> None:
    huge = ModelLimits(
        name="dlrm",
        dense_width=2,
        table_rows=np.array([2**40] * FEATURES),
        feature_names=("a", "b", "c"),
        rows_max=4,
        ids_per_row_max=3,
    )
    request = one_hot(1)
    request.ids = np.full((1, FEATURES), 2**31 - 1, np.int32)
    assert admitted(request, within=huge)
    request.ids = np.full((1, FEATURES), -1, np.int32)
    assert refused(request, huge).status is Status.OUT_OF_RANGE


def test_bag_value_outside_its_table_is_refused_by_name() -> None:
    answer = refused(multi_hot([[1, 0, 0], [0, 0, 2]], [9, 4, 5]))
    assert answer.status is Status.OUT_OF_RANGE
    assert answer.detail == "feature 'country', row 1: id 5 is not in [0, 5)"


def test_negative_length_is_invalid_though_the_sum_agrees() -> None:
    assert refused(multi_hot([[2, -1, 0]], [1])).status is Status.INVALID


@pytest.mark.parametrize("values", [[1], [1, 1, 1]])
def test_lengths_that_do_not_add_up_are_invalid(values: list[int]) -> None:
    assert "add up to 2" in refused(multi_hot([[1, 1, 0]], values)).detail


def test_row_with_more_ids_than_a_batch_holds_is_too_large() -> None:
    assert admitted(multi_hot([[8, 0, 0]], [0] * 8))
    answer = refused(multi_hot([[0, 0, 1], [8, 1, 0]], [0] * 10))
    assert answer.status is Status.TOO_LARGE and "row 1" in answer.detail


@given(st.lists(st.lists(st.integers(-2, 21), min_size=FEATURES, max_size=FEATURES), min_size=1, max_size=9))
def test_ids_enter_if_and_only_if_each_is_in_its_table(rows: list[list[int]]) -> None:
    request = one_hot(len(rows))
    request.ids = np.array(rows, np.int32)
    fits = all(0 <= value < end for row in rows for value, end in zip(row, (10, 20, 5), strict=True))
    assert isinstance(admit(request, limits=limits(), now_ns=0, route=None), Admitted) is fits


@given(st.lists(st.lists(st.integers(0, 2), min_size=FEATURES, max_size=FEATURES), min_size=1, max_size=6), st.data())
def test_bags_enter_if_and_only_if_each_value_is_in_its_table(lengths: list[list[int]], data: st.DataObject) -> None:
    ends = [end for row in lengths for count, end in zip(row, (10, 20, 5), strict=True) for _ in range(count)]
    values = [data.draw(st.integers(-1, end)) for end in ends]
    fits = all(0 <= value < end for value, end in zip(values, ends, strict=True))
    entered = admit(multi_hot(lengths, values), limits=limits(), now_ns=0, route=None)
    assert isinstance(entered, Admitted) is fits


def test_limits_that_contradict_each_other_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="ids_per_row_max"):
        limits(ids_per_row_max=2)
    with pytest.raises(ValueError, match="one row"):
        limits(rows_max=0)
    with pytest.raises(ValueError, match="1 tables"):
        ModelLimits(
            name="m",
            dense_width=1,
            table_rows=np.array([0]),
            feature_names=("a",),
            rows_max=1,
            ids_per_row_max=1,
        )

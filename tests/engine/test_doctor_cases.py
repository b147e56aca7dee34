"""The doctor's inputs fill a bucket in every way that a batch can, and are valid."""

import numpy as np
import pytest

from narsil_graph.engine.doctor_cases import EXACT_ROWS_MAX, USUAL_IDS_MAX, Cases, Floats, cases_of, head
from narsil_graph.limits import limits_of
from narsil_transport.admission import Admitted, admit
from narsil_transport.buckets import Bucket
from narsil_transport.messages import InferRequest
from tests.engine.tiny import SHAPES, bags_of

SPEC = SHAPES["4 vectors"].spec()
BUCKET = Bucket(80, 80 * 12)


def rows_of(request: InferRequest) -> Floats:
    return np.zeros(request.rows)


def cases(*, bucket: Bucket = BUCKET, eager: bool = True) -> Cases:
    return cases_of(SPEC, bucket, np.random.default_rng(0), eager=rows_of if eager else None, exact=rows_of)


def lengths_of(request: InferRequest) -> list[int]:
    assert request.lengths is not None
    return request.lengths.ravel().tolist()


@pytest.mark.parametrize("bucket", [Bucket(1, 3), Bucket(1, 4), BUCKET])
def test_every_case_has_as_many_rows_as_the_bucket_and_fits_it(bucket: Bucket) -> None:
    limits = limits_of(SPEC, rows_max=bucket.rows, ids_per_row_max=bucket.ids)
    found = cases(bucket=bucket).all
    assert len(found) == 7
    for case in found:
        admitted = admit(case.request, limits=limits, now_ns=0, route=None)
        assert isinstance(admitted, Admitted)
        assert admitted.rows == bucket.rows
        assert admitted.ids <= bucket.ids


def test_edges_are_no_ids_ids_in_the_last_bag_only_and_no_room_left() -> None:
    empty, last, full = (lengths_of(case.request) for case in cases().edges)
    assert sum(empty) == 0
    assert (sum(last), last[-1]) == (3, 3)
    assert sum(full) == BUCKET.ids


def test_usual_bags_are_short_and_differ_in_length() -> None:
    for case in cases().bags:
        assert set(lengths_of(case.request)) == set(range(USUAL_IDS_MAX + 1))


def test_both_cases_of_a_form_differ() -> None:
    one, other = cases().one_id
    assert one.request.ids is not None and other.request.ids is not None
    assert not np.array_equal(one.request.ids, other.request.ids)


def test_float64_scores_the_first_rows_of_usual_inputs_only() -> None:
    found = cases()
    assert [None if case.exact is None else len(case.exact) for case in found.all] == [EXACT_ROWS_MAX] * 4 + [None] * 3
    assert all(case.eager is not None and len(case.eager) == BUCKET.rows for case in found.all)


def test_without_an_eager_forward_float64_is_what_is_expected_and_edges_are_left_out() -> None:
    found = cases(eager=False)
    assert found.edges == ()
    assert all(case.eager is None and case.expected is case.exact for case in found.all)


def test_head_cuts_ids_between_rows() -> None:
    request = cases().bags[0].request
    assert bags_of(head(request, 7)) == bags_of(request)[:7]
    assert bags_of(head(request, 1000)) == bags_of(request)

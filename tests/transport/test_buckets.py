"""A ladder covers its maximum, and picks the smallest bucket with room."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narsil_transport.buckets import Bucket, BucketLadder, parse_rows

LADDER = BucketLadder((Bucket(1, 10), Bucket(4, 10), Bucket(8, 40)))


@pytest.mark.parametrize(
    ("rows", "ids", "bucket_rows"), [(1, 1, 1), (1, 10, 1), (2, 3, 4), (1, 11, 8), (8, 40, 8), (4, 10, 4)]
)
def test_smallest_bucket_with_room_for_both_covers(rows: int, ids: int, bucket_rows: int) -> None:
    bucket = LADDER.cover(rows, ids)
    assert bucket is not None and bucket.rows == bucket_rows


def test_nothing_covers_beyond_the_maximum() -> None:
    assert LADDER.cover(9, 1) is None and LADDER.cover(1, 41) is None


@given(st.sets(st.integers(1, 200), min_size=1, max_size=8), st.integers(1, 5), st.data())
def test_everything_up_to_the_maximum_is_covered(rows: set[int], ids_per_row: int, data: st.DataObject) -> None:
    ladder = BucketLadder.from_rows(sorted(rows), ids_per_row=ids_per_row)
    count, ids = data.draw(st.integers(1, ladder.rows_max)), data.draw(st.integers(0, ladder.ids_max))
    bucket = ladder.cover(count, ids)
    fitting = [each for each in ladder.buckets if each.rows >= count and each.ids >= ids]
    assert bucket == fitting[0]


@pytest.mark.parametrize("buckets", [(), (Bucket(2, 2), Bucket(2, 3)), (Bucket(2, 4), Bucket(3, 3))])
def test_ladder_that_does_not_climb_cannot_be_built(buckets: tuple[Bucket, ...]) -> None:
    with pytest.raises(ValueError, match="bucket"):
        BucketLadder(buckets)


def test_empty_bucket_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        Bucket(0, 1)


def test_row_list_is_parsed() -> None:
    assert parse_rows("1, 2,8") == (1, 2, 8)


@pytest.mark.parametrize("text", ["", "1,,2", "a", "0,1", "2,1", "1,1", "1.5"])
def test_bad_row_list_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="want row counts"):
        parse_rows(text)

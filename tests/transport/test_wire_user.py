"""A user's part survives the wire, and one that does not fit its request is refused."""

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narsil_transport.header import MAGIC, VERSION
from narsil_transport.status import Status
from narsil_transport.wire import TENSORS_MAX, InferRequest, Refused, UserPart, decode_request, encode_request
from tests.transport.user_requests import Pair, pairs, user_once

SPECS: list[list[Any]] = [
    ["dense", "f4", [2, 1]],
    ["ids", "i4", [2, 1]],
    ["user_dense", "f4", [1]],
    ["user_ids", "i8", [2]],
]
TENSORS = [bytes(8), bytes(8), bytes(4), bytes(16)]
MASKS = [b"\x01", b"\x06"]
BAGS = [SPECS[0], ["lengths", "i4", [2, 1]], ["values", "i4", [3]]]
USER_BAGS = [SPECS[2], ["user_lengths", "i4", [2]], ["user_values", "i4", [1]]]


def decoded(*, tensors: list[bytes] | None = None, **fields: Any) -> object:
    header = MAGIC + bytes((VERSION, 1)) + msgpack.packb({"id": 7, "t": SPECS, "u": MASKS, **fields})
    return decode_request(header, TENSORS if tensors is None else tensors)


def test_masks_are_read_from_the_lowest_bit() -> None:
    got = decoded()
    assert isinstance(got, InferRequest) and got.user is not None
    assert got.user.dense_mask.tolist() == [True, False]
    assert got.user.feature_mask.tolist() == [False, True, True]


def test_masks_of_more_than_a_byte_survive() -> None:
    sent = user_once(2, dense_mask="000000001", feature_mask="1" + "0" * 15 + "1")
    got = decode_request(*split(encode_request(sent)))
    assert isinstance(got, InferRequest) and got.user is not None and sent.user is not None
    assert np.array_equal(got.user.dense_mask, sent.user.dense_mask)
    assert np.array_equal(got.user.feature_mask, sent.user.feature_mask)


def split(frames: list[bytes]) -> tuple[bytes, list[bytes]]:
    return frames[0], frames[1:]


def arrays(request: InferRequest) -> list[tuple[Any, Any, bytes] | None]:
    parts: list[Any] = [request.dense, request.ids, request.lengths, request.values]
    if request.user is not None:
        user = request.user
        parts += [user.dense_mask, user.feature_mask, user.dense, user.ids, user.lengths, user.values]
    return [None if part is None else (part.dtype, part.shape, part.tobytes()) for part in parts]


@given(pairs())
def test_any_user_part_survives_in_at_most_six_tensors(pair: Pair) -> None:
    head, tensors = split(encode_request(pair.split))
    got = decode_request(head, tensors)
    assert isinstance(got, InferRequest) and arrays(got) == arrays(pair.split)
    assert len(tensors) <= TENSORS_MAX


def test_the_user_is_sent_once() -> None:
    rows, columns, features = 100, "1" * 40 + "0" * 10, "1" * 20 + "0" * 6
    frames = encode_request(user_once(rows, dense_mask=columns, feature_mask=features))
    assert sum(map(len, frames[1:])) == 4 * (rows * (10 + 6) + 40 + 20)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"u": None}, "'u'"),
        ({"u": MASKS[:1]}, "'u'"),
        ({"u": [*MASKS, b"\x01"]}, "'u'"),
        ({"u": ["\x01", b"\x06"]}, "'u'"),
        ({"u": [1, b"\x06"]}, "'u'"),
        ({"u": [[1], b"\x06"]}, "'u'"),
        ({"u": [b"", b"\x06"]}, "'u' wants 1 bytes for 2 dense columns"),
        ({"u": [b"\x01\x00", b"\x06"]}, "'u' wants 1 bytes"),
        ({"u": [b"\x01", b"\x06" * 4000]}, "'u' wants 1 bytes for 3 features"),
        ({"u": [b"\x05", b"\x06"]}, "bits beyond"),
        ({"u": [b"\x01", b"\x86"]}, "bits beyond"),
        ({"u": [b"\x03", b"\x06"]}, "shape [2]"),
        ({"u": [b"\x00", b"\x06"]}, "shape [0]"),
        ({"u": [b"\x01", b"\x07"]}, "shape [3]"),
        ({"u": [b"\x01", b"\x01"]}, "shape [1]"),
        ({"t": [*SPECS[:2], SPECS[3], SPECS[2]]}, "user_dense"),
        ({"t": [*SPECS[:2], ["user_dense", "f4", [1, 1]], SPECS[3]]}, "1 dimensions"),
        ({"t": [*SPECS[:3], ["user_ids", "f4", [2]]]}, "i4 or i8"),
        ({"t": [*SPECS[:3], ["user_ids", "i8", [1]]]}, "user_ids"),
        ({"t": [SPECS[0], ["ids", "i4", [1, 2]], *SPECS[2:]]}, "rows"),
    ],
)
def test_bad_user_part_is_invalid_and_named(fields: dict[str, Any], names: str) -> None:
    answer = decoded(**fields)
    assert isinstance(answer, Refused) and answer.request_id == 7
    assert answer.refusal.status is Status.INVALID and names in answer.refusal.detail


@pytest.mark.parametrize(
    "specs",
    [SPECS[:2], SPECS[:3], [*SPECS, SPECS[3], SPECS[3]], BAGS, [*BAGS, SPECS[2]], [0, 0, 0, 0], [*SPECS, *BAGS]],
)
def test_tensors_that_are_no_two_parts_are_invalid(specs: list[Any]) -> None:
    answer = decoded(t=specs, tensors=[bytes(8)] * len(specs))
    assert isinstance(answer, Refused) and answer.refusal.status is Status.INVALID


def test_user_tensors_without_masks_are_invalid() -> None:
    header = MAGIC + bytes((VERSION, 1)) + msgpack.packb({"id": 7, "t": SPECS})
    answer = decode_request(header, TENSORS)
    assert isinstance(answer, Refused) and "without 'u'" in answer.refusal.detail


@pytest.mark.parametrize(
    ("fewer", "masks", "sizes_bytes"),
    [
        ({"dense": [2, 0], "user_dense": [0]}, [b"", b"\x06"], [0, 8, 0, 16]),
        ({"ids": [2, 0], "user_ids": [0]}, [b"\x01", b""], [8, 0, 4, 0]),
    ],
)
def test_a_model_has_at_least_one_column_and_one_feature(
    fewer: dict[str, list[int]], masks: list[bytes], sizes_bytes: list[int]
) -> None:
    specs = [[name, code, fewer.get(str(name), shape)] for name, code, shape in SPECS]
    answer = decoded(t=specs, u=masks, tensors=[bytes(size) for size in sizes_bytes])
    assert isinstance(answer, Refused) and "at least one" in answer.refusal.detail


@given(st.data())
def test_mutated_user_request_decodes_or_is_refused(data: st.DataObject) -> None:
    frames = encode_request(user_once(2))
    head = bytearray(frames[0])
    for _ in range(data.draw(st.integers(1, 4))):
        head[data.draw(st.integers(0, len(head) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(decode_request(bytes(head), frames[1:]), InferRequest | Refused)


NOTHING = np.zeros(0, np.float32)
IDS, LENGTHS = np.zeros(1, np.int32), np.ones(1, np.int32)
NONE, ONE = np.array([False]), np.array([True])


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((np.array([0]), ONE, NOTHING, IDS), "dense_mask wants bool"),
        ((NONE, np.array([[True]]), NOTHING, IDS), "feature_mask wants bool"),
        ((ONE, ONE, NOTHING, IDS), r"dense wants shape \[1\]"),
        ((NONE, ONE, NOTHING), "either ids, or both"),
        ((NONE, ONE, NOTHING, IDS, LENGTHS, IDS), "either ids, or both"),
        ((NONE, ONE, NOTHING, IDS, None, IDS), "either ids, or both"),
        ((NONE, ONE, NOTHING, None, LENGTHS), "either ids, or both"),
        ((NONE, NONE, NOTHING, IDS), r"ids want shape \[0\]"),
        ((NONE, NONE, NOTHING, None, LENGTHS, IDS), r"lengths want shape \[0\]"),
        ((NONE, ONE, NOTHING, None, LENGTHS, np.zeros((1, 1), np.int32)), "1 dimension"),
    ],
)
def test_a_user_part_that_contradicts_itself_cannot_be_built(parts: tuple[Any, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        UserPart(*parts)

"""Tensors in shared memory: the header alone says where they lie, and the server's reader copies them."""

from typing import Any

import msgpack
import numpy as np
import pytest

from narsil_transport.header import MAGIC, VERSION
from narsil_transport.status import Refusal, Status
from narsil_transport.wire import (
    SPAN_BYTES_MAX,
    AttachReply,
    AttachRequest,
    Fetch,
    InferRequest,
    Operation,
    Refused,
    Span,
    WireError,
    decode_reply,
    decode_request,
    encode_attach,
    encode_attached,
    encode_in_segment,
    encode_request,
)
from tests.transport.requests import multi_hot, one_hot
from tests.transport.user_requests import user_once

SPECS = [["dense", "f4", [2, 2]], ["ids", "i4", [2, 3]]]
SEGMENT = bytes(8) + bytes(range(40)) + bytes(16)


def header(operation: int = Operation.INFER, **fields: Any) -> bytes:
    return MAGIC + bytes((VERSION, operation)) + msgpack.packb({"id": 7, **fields})


def reader(memory: bytes) -> Fetch:
    def fetch(span: Span) -> list[bytes] | Refusal:
        ends = np.cumsum(span.lengths_bytes) + span.offset
        return [memory[end - length : end] for end, length in zip(ends, span.lengths_bytes, strict=True)]

    return fetch


def not_reached(span: Span) -> list[bytes] | Refusal:
    raise AssertionError(span)


def refused(head: bytes, fetch: Fetch | None = not_reached, tensors: tuple[bytes, ...] = ()) -> Refused:
    answer = decode_request(head, tensors, fetch)
    assert isinstance(answer, Refused) and answer.request_id == 7, answer
    return answer


def test_span_says_where_each_tensor_lies() -> None:
    spans: list[Span] = []

    def fetch(span: Span) -> list[bytes] | Refusal:
        spans.append(span)
        return [bytes(length) for length in span.lengths_bytes]

    assert isinstance(decode_request(header(t=SPECS, x=[3, 1 << 63, 8]), (), fetch), InferRequest)
    assert spans == [Span(3, 1 << 63, 8, (16, 24))]


@pytest.mark.parametrize("request_", [one_hot(2, deadline_us=5), multi_hot([[2, 0, 1]], [4, 5, 1]), user_once(2)])
def test_request_in_a_segment_is_the_request_in_frames(request_: InferRequest) -> None:
    head, tensors = encode_in_segment(request_, segment=1, generation=2, offset=24)
    memory = bytes(24) + b"".join(array.tobytes() for array in tensors)
    got = decode_request(head, (), reader(memory))
    assert isinstance(got, InferRequest) and encode_request(got) == encode_request(request_)


def test_what_the_reader_refuses_is_refused() -> None:
    refusal = Refusal(Status.INVALID, "no such segment")
    assert refused(header(t=SPECS, x=[1, 2, 8]), lambda span: refusal).refusal is refusal


def test_server_without_a_reader_refuses_shared_memory() -> None:
    assert refused(header(t=SPECS, x=[1, 2, 8]), None).refusal.status is Status.UNSUPPORTED
    assert refused(encode_attach(AttachRequest(7, "a", 64, 1)), None).refusal.status is Status.UNSUPPORTED


@pytest.mark.parametrize(
    "place", [None, 1, [], [1, 2], [1, 2, 3, 4], [1, 2, -1], [1, True, 8], [1.0, 2, 8], ["1", 2, 8]]
)
@pytest.mark.parametrize("fetch", [None, not_reached])
def test_bad_place_is_invalid_and_named(place: object, fetch: Fetch | None) -> None:
    answer = refused(header(t=SPECS, x=place), fetch)
    assert answer.refusal.status is Status.INVALID and "'x'" in answer.refusal.detail


def test_frames_beside_shared_memory_are_invalid() -> None:
    answer = refused(header(t=SPECS, x=[1, 2, 8]), tensors=(bytes(16), bytes(24)))
    assert answer.refusal.status is Status.INVALID and "no tensor frame" in answer.refusal.detail


@pytest.mark.parametrize(
    "spec",
    [
        None,
        ["dense", "f4"],
        ["dense", "f8", [2, 2]],
        ["dense", ["f4"], [2, 2]],
        ["dense", None, [2, 2]],
        ["dense", "f4", 4],
        ["dense", "f4", [-2, -2]],
        ["dense", "f4", [True, 2]],
        ["dense", "f4", [2.0, 2]],
    ],
)
def test_tensor_without_a_length_is_invalid_and_not_read(spec: object) -> None:
    assert refused(header(t=[spec, SPECS[1]], x=[1, 2, 8])).refusal.status is Status.INVALID


@pytest.mark.parametrize("shape", [[SPAN_BYTES_MAX // 4, 1], [1 << 63, 1 << 63], [1 << 63] * 16])
def test_more_than_a_request_may_span_is_invalid_and_not_read(shape: list[int]) -> None:
    answer = refused(header(t=[["dense", "f4", shape], SPECS[1]], x=[1, 2, 8]))
    assert answer.refusal.status is Status.INVALID and str(SPAN_BYTES_MAX) in answer.refusal.detail


def test_encoder_refuses_more_than_a_request_may_span() -> None:
    request = one_hot(1)
    request.dense = np.zeros((SPAN_BYTES_MAX // 4, 1), np.float32)
    with pytest.raises(WireError, match=str(SPAN_BYTES_MAX)):
        encode_in_segment(request, segment=1, generation=2, offset=8)


def test_fetched_tensors_are_checked_like_frames() -> None:
    answer = refused(header(t=[SPECS[0], ["ids", "f4", [2, 3]]], x=[1, 2, 8]), reader(SEGMENT))
    assert answer.refusal.status is Status.INVALID and "i4 or i8" in answer.refusal.detail


def test_attach_survives() -> None:
    sent = AttachRequest((1 << 64) - 1, "narsil-1.2_b", 1 << 40, (1 << 64) - 1)
    assert decode_request(encode_attach(sent), (), not_reached) == sent


@pytest.mark.parametrize("window", [None, 5])
def test_attach_reply_survives(window: int | None) -> None:
    reply = AttachReply(7, "v7", 3, window)
    assert decode_reply([encode_attached(reply)]) == reply


@pytest.mark.parametrize(
    "fields",
    [
        {"name": None},
        {"name": b"a"},
        {"name": ""},
        {"name": "a" * 65},
        {"name": "../a"},
        {"name": "a/b"},
        {"name": "a\0"},
        {"name": "a\n"},
        {"name": "\u00e4"},
        {"bytes": -1},
        {"bytes": True},
        {"bytes": 1.0},
        {"gen": -1},
        {"gen": None},
    ],
)
def test_bad_attach_is_invalid(fields: dict[str, Any]) -> None:
    whole = {"name": "a", "bytes": 64, "gen": 1}
    assert refused(header(Operation.ATTACH, **whole | fields)).refusal.status is Status.INVALID


@pytest.mark.parametrize("missing", ["name", "bytes", "gen"])
def test_attach_wants_every_field(missing: str) -> None:
    fields = {key: value for key, value in {"name": "a", "bytes": 64, "gen": 1}.items() if key != missing}
    assert repr(missing) in refused(header(Operation.ATTACH, **fields)).refusal.detail


def test_attach_with_a_tensor_is_invalid() -> None:
    answer = refused(encode_attach(AttachRequest(7, "a", 64, 1)), tensors=(b"",))
    assert answer.refusal.status is Status.INVALID


@pytest.mark.parametrize("value", [-1, True, None, "1"])
def test_attach_reply_without_a_segment_number_is_a_wire_error(value: object) -> None:
    fields = {"id": 7, "s": 0, "v": "v7", "seg": value}
    with pytest.raises(WireError, match="'seg'"):
        decode_reply([MAGIC + b"\x01\x86" + msgpack.packb(fields)])


def test_an_attach_that_cannot_be_meant_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="name"):
        AttachRequest(1, "a/b", 64, 1)
    with pytest.raises(ValueError, match="negative"):
        AttachRequest(1, "a", -1, 1)

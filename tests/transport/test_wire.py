"""Requests survive the wire, and no bytes make the decoder raise."""

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narsil_transport.header import MAGIC, REQUEST_HEADER_BYTES_MAX, VERSION
from narsil_transport.messages import Ids
from narsil_transport.status import Status
from narsil_transport.wire import (
    CancelRequest,
    ControlRequest,
    InferRequest,
    Operation,
    Priority,
    Refused,
    WireError,
    decode_request,
    encode_cancel,
    encode_request,
)
from tests.transport.requests import multi_hot, one_hot

SPECS = [["dense", "f4", [2, 2]], ["ids", "i4", [2, 3]]]
TENSORS = [bytes(16), bytes(24)]


def header(operation: int = Operation.INFER, **fields: Any) -> bytes:
    return MAGIC + bytes((VERSION, operation)) + msgpack.packb({"id": 7, "t": SPECS, **fields})


def refused(head: bytes, tensors: list[bytes] | None = None) -> Refused:
    decoded = decode_request(head, TENSORS if tensors is None else tensors)
    assert isinstance(decoded, Refused), decoded
    return decoded


@pytest.mark.parametrize("ids", [np.arange(15, dtype=np.int32), np.arange(15, dtype=np.int64)])
def test_one_hot_request_survives(ids: Ids) -> None:
    sent = one_hot(5, request_id=3, deadline_us=250)
    sent.ids, sent.model, sent.traceparent = ids.reshape(5, 3), "dlrm", "00-ab-cd-01"
    head, *tensors = encode_request(sent)
    got = decode_request(head, tensors)
    assert isinstance(got, InferRequest)
    assert (got.request_id, got.model, got.deadline_us, got.traceparent) == (3, "dlrm", 250, "00-ab-cd-01")
    assert got.ids is not None and got.ids.dtype == ids.dtype and got.rows == 5
    assert np.array_equal(got.ids.reshape(-1), ids) and np.array_equal(got.dense, sent.dense)
    assert got.lengths is None and got.values is None


def test_multi_hot_request_survives() -> None:
    head, *tensors = encode_request(multi_hot([[2, 0, 1], [0, 0, 0]], [4, 5, 1]))
    got = decode_request(head, tensors)
    assert isinstance(got, InferRequest) and got.lengths is not None and got.values is not None
    assert got.lengths.tolist() == [[2, 0, 1], [0, 0, 0]] and got.values.tolist() == [4, 5, 1]


def test_decoded_arrays_are_views_of_the_frames() -> None:
    frame = memoryview(bytearray(16))
    got = decode_request(header(), [frame, TENSORS[1]])
    assert isinstance(got, InferRequest) and np.shares_memory(got.dense, np.asarray(frame))


def test_transposed_arrays_are_sent_in_row_order() -> None:
    sent = one_hot(2)
    sent.ids = np.array([[1, 2], [3, 4], [5, 6]], np.int32).T
    head, *tensors = encode_request(sent)
    got = decode_request(head, tensors)
    assert isinstance(got, InferRequest) and got.ids is not None and got.ids.tolist() == [[1, 3, 5], [2, 4, 6]]


def test_encoder_refuses_a_dtype_the_wire_does_not_carry() -> None:
    sent = one_hot(2)
    sent.dense = sent.dense.astype(">f4")
    with pytest.raises(WireError, match="dense"):
        encode_request(sent)


@pytest.mark.parametrize("priority", Priority)
def test_priority_survives_and_only_bulk_costs_bytes(priority: Priority) -> None:
    head, *tensors = encode_request(one_hot(2, priority=priority))
    got = decode_request(head, tensors)
    assert isinstance(got, InferRequest) and got.priority is priority
    assert (b"\xa1p" in head) is (priority is Priority.BULK)


def test_cancel_survives() -> None:
    assert decode_request(encode_cancel((1 << 64) - 1), []) == CancelRequest((1 << 64) - 1)


def test_cancel_reads_nothing_but_its_id() -> None:
    assert decode_request(header(Operation.CANCEL, d=-1, p="x"), []) == CancelRequest(7)


@pytest.mark.parametrize("operation", [Operation.HEALTH, Operation.METADATA])
def test_control_request_survives(operation: Operation) -> None:
    head, *tensors = encode_request(ControlRequest(8, operation))
    assert decode_request(head, tensors) == ControlRequest(8, operation)


@pytest.mark.parametrize("operation", [Operation.HEALTH, Operation.METADATA, Operation.CANCEL])
def test_other_request_with_a_tensor_is_refused_under_its_id(operation: Operation) -> None:
    answer = refused(header(operation))
    assert answer.request_id == 7 and answer.refusal.status is Status.INVALID


@pytest.mark.parametrize("operation", [0, Operation.ADMIN, 0x81, 255])
def test_unserved_operation_is_unsupported_under_its_id(operation: int) -> None:
    answer = refused(header(operation))
    assert answer.refusal.status is Status.UNSUPPORTED and answer.request_id == 7


def test_other_version_is_unsupported_and_its_map_unread() -> None:
    answer = refused(b"NG\x02\x01" + header()[4:])
    assert answer.refusal.status is Status.UNSUPPORTED and answer.request_id == 0


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"m": 5}, "'m'"),
        ({"d": 0}, "'d'"),
        ({"d": -1}, "'d'"),
        ({"d": 1.5}, "'d'"),
        ({"tp": "x" * 65}, "'tp'"),
        ({"p": 2}, "'p'"),
        ({"p": -1}, "'p'"),
        ({"p": True}, "'p'"),
        ({"p": 1.0}, "'p'"),
        ({"p": None}, "'p'"),
        ({"p": "bulk"}, "'p'"),
        ({"p": [[1] * 16] * 16}, "'p'"),
        ({"t": None}, "'t'"),
        ({"t": SPECS[:1]}, "'t'"),
        ({"t": [SPECS[1], SPECS[0]]}, "dense"),
        ({"t": [["dense", "i4", [2, 2]], SPECS[1]]}, "f4"),
        ({"t": [["dense", ["f4"], [2, 2]], SPECS[1]]}, "f4"),
        ({"t": [["dense", "f4", [4]], SPECS[1]]}, "2 dimensions"),
        ({"t": [["dense", "f4", [-2, -2]], SPECS[1]]}, "shape"),
        ({"t": [["dense", "f4", [2.0, 2]], SPECS[1]]}, "shape"),
        ({"t": [["dense", "f4", [1 << 63, 2]], SPECS[1]]}, "shape"),
        ({"t": [["dense", "f4", [2, 3]], SPECS[1]]}, "shape"),
        ({"t": [["dense", "f4", [1, 2]], SPECS[1]]}, "8 bytes"),
        ({"t": [["dense", "f4", [1, 4]], SPECS[1]]}, "rows"),
    ],
)
def test_bad_field_is_invalid_and_named(fields: dict[str, Any], names: str) -> None:
    answer = refused(header(**fields))
    assert answer.request_id == 7 and answer.refusal.status is Status.INVALID
    assert names in answer.refusal.detail


@pytest.mark.parametrize("specs", [["dense", "f4", [2, 0]], ["dense", "f4", [0, 0]]])
def test_dense_without_columns_is_invalid(specs: list[Any]) -> None:
    rows = specs[2][0]
    assert "column" in refused(header(t=[specs, ["ids", "i4", [rows, 3]]]), [b"", bytes(rows * 12)]).refusal.detail


@pytest.mark.parametrize("operation", [Operation.INFER, Operation.CANCEL])
@pytest.mark.parametrize("request_id", [None, -1, True, "7", 7.0])
def test_unreadable_id_is_answered_as_zero(request_id: object, operation: Operation) -> None:
    answer = refused(header(operation, id=request_id))
    assert answer.request_id == 0 and answer.refusal.status is Status.INVALID


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_wrong_number_of_tensors_is_invalid(count: int) -> None:
    assert "tensors" in refused(header(), [bytes(16)] * count).refusal.detail


def test_header_over_the_limit_is_refused_unread() -> None:
    assert "bytes" in refused(header(m="x" * REQUEST_HEADER_BYTES_MAX)).refusal.detail


def test_deeply_nested_header_is_refused_within_the_stack() -> None:
    nested = b"\x82\xa2id\x07\xa1t\x92" + b"\x91" * 1000 + b"\xc0\xc0"
    assert refused(MAGIC + b"\x01\x01" + nested).request_id == 7


def test_array_that_claims_more_than_the_limit_is_refused() -> None:
    assert "max_array_len" in refused(header(t=[0] * 17)).refusal.detail


LETTERS = st.text("dent4", max_size=5)
FIELD_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | LETTERS | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(LETTERS, inner, max_size=3),
    max_leaves=12,
)


@given(st.binary(max_size=200), st.lists(st.binary(max_size=40), max_size=4))
def test_random_bytes_are_refused(head: bytes, tensors: list[bytes]) -> None:
    assert isinstance(decode_request(head, tensors), Refused)


@given(
    st.integers(0, 255),
    st.dictionaries(st.sampled_from(["id", "m", "d", "p", "tp", "t", "u", "x"]), FIELD_VALUES),
    st.lists(st.binary(max_size=40), max_size=4),
)
def test_any_map_decodes_or_is_refused(operation: int, fields: dict[str, Any], tensors: list[bytes]) -> None:
    got = decode_request(header(operation, **fields), tensors)
    assert isinstance(got, InferRequest | ControlRequest | CancelRequest | Refused)


@given(st.data())
def test_mutated_request_decodes_or_is_refused(data: st.DataObject) -> None:
    head = bytearray(encode_request(one_hot(2, deadline_us=9))[0])
    for _ in range(data.draw(st.integers(1, 4))):
        head[data.draw(st.integers(0, len(head) - 1))] = data.draw(st.integers(0, 255))
    got = decode_request(bytes(head[: data.draw(st.integers(0, len(head)))]), TENSORS)
    assert isinstance(got, InferRequest | ControlRequest | CancelRequest | Refused)

"""A client's segments: slots that never overlap, tensors as they were given, and frames wherever that does not work."""

import gc
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from narsil_client import shm
from narsil_client.arguments import User, infer_request
from narsil_client.shm import Segment, Slots, create_segment, payload_bytes
from narsil_transport.messages import InferRequest
from narsil_transport.segments import FOLDER, Segments
from narsil_transport.wire import decode_request, encode_request
from tests.client.fake_server import DENSE, IDS

SIZE = 1 << 16
PEER = b"peer"
ONE_HOT = infer_request(dense=DENSE, ids=IDS)
BAGS = infer_request(dense=DENSE, lengths=[[1, 0], [2, 1]], values=[9, 8, 7, 6])
SPLIT = infer_request(
    dense=[[1.0], [2.0]],
    ids=[[1], [2]],
    user=User(dense_columns=[1], dense=[0.5], features=[0, 2], ids=[7, 8]),
)

pytestmark = pytest.mark.skipif(not os.path.isdir(FOLDER), reason=f"no {FOLDER} here")


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = create_segment(SIZE)
    yield made
    made.unlink()


def attached(segment: Segment) -> tuple[Segments, int]:
    """A server's side of it."""
    segments = Segments(SIZE)
    number = segments.attach(PEER, segment.attach_request(1))
    assert isinstance(number, int), number
    return segments, number


def names() -> set[str]:
    return {name for name in os.listdir(FOLDER) if name.startswith("narsil-")}


def test_slots_never_overlap_and_stay_inside_whatever_is_taken_and_freed() -> None:
    random, slots, taken = Random(3), Slots(4096), dict[int, int]()
    refused = 0
    for _ in range(3000):
        if taken and random.random() < 0.5:
            offset = random.choice([*taken])
            slots.free(offset)
            del taken[offset]
            continue
        size = random.randint(1, 900)
        at = slots.take(size)
        if at is None:
            refused += 1
            continue
        assert 8 <= at <= 4096 - size
        assert all(at + size <= begin or begin + other <= at for begin, other in taken.items())
        taken[at] = size
    assert refused > 100


def test_gap_between_slots_is_used_again() -> None:
    slots = Slots(64 * 4)
    assert [slots.take(64) for _ in range(3)] == [64, 128, 192]
    assert slots.take(1) is None
    slots.free(128)
    assert slots.take(65) is None
    assert slots.take(64) == 128


@pytest.mark.parametrize("request_", [ONE_HOT, BAGS, SPLIT], ids=["one-hot", "bags", "user-once"])
def test_server_reads_what_frames_would_have_brought(segment: Segment, request_: InferRequest) -> None:
    segments, number = attached(segment)
    loan = segment.write(request_, number)
    assert loan is not None
    header, *frames = encode_request(request_)
    got = decode_request(loan.header, [], lambda span: segments.fetch(PEER, span))
    assert isinstance(got, InferRequest)
    assert encode_request(got) == encode_request(decoded(header, frames))
    segments.close()


def decoded(header: bytes, frames: list[bytes]) -> InferRequest:
    request = decode_request(header, frames)
    assert isinstance(request, InferRequest)
    return request


def test_requests_in_flight_do_not_overwrite_each_other(segment: Segment) -> None:
    segments, number = attached(segment)
    requests = [replace(ONE_HOT, dense=np.full((2, 2), index, np.float32)) for index in range(20)]
    loans = [segment.write(request, number) for request in requests]
    for index, loan in enumerate(loans):
        assert loan is not None
        got = decode_request(loan.header, [], lambda span: segments.fetch(PEER, span))
        assert isinstance(got, InferRequest) and (got.dense == index).all()
    segments.close()


def test_caller_may_change_its_arrays_once_they_are_written(segment: Segment) -> None:
    dense = np.array(DENSE, np.float32)
    mask = np.array([False, True, False])
    user = User(dense=[0.5], dense_columns=mask, features=[0], ids=[7])
    request = infer_request(dense=dense, ids=IDS, user=user)
    before = encode_request(request)
    loan = segment.write(request, 1)
    dense[:], mask[:] = 9, False
    assert loan is not None and encode_request(loan.request) == before


def test_no_slot_where_all_are_taken_until_one_ends(segment: Segment) -> None:
    big = infer_request(dense=np.ones((2, SIZE // 16), np.float32), ids=IDS)
    first = segment.write(big, 1)
    assert first is not None
    assert segment.write(big, 1) is None
    first.end()
    assert segment.write(big, 1) is not None


def test_request_beyond_the_wires_bound_gets_no_slot(segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm, "SPAN_BYTES_MAX", payload_bytes(ONE_HOT))
    assert segment.write(ONE_HOT, 1) is not None
    monkeypatch.setattr(shm, "SPAN_BYTES_MAX", payload_bytes(ONE_HOT) - 1)
    assert segment.write(ONE_HOT, 1) is None


def test_transposed_arrays_are_written_in_row_order(segment: Segment) -> None:
    request = replace(ONE_HOT, dense=np.array(DENSE, np.float32).T)
    loan = segment.write(request, 1)
    assert loan is not None and encode_request(loan.request) == encode_request(request)


def test_nobody_else_may_open_a_segment_and_its_name_is_new(segment: Segment) -> None:
    path = Path(FOLDER, segment.name)
    assert path.stat().st_mode & 0o777 == 0o600
    other = create_segment(SIZE)
    other.unlink()
    assert other.name != segment.name


def test_unlinked_segment_has_no_name_and_works_on(segment: Segment) -> None:
    segments, number = attached(segment)
    segment.unlink()
    segment.unlink()
    assert segment.name not in names()
    loan = segment.write(ONE_HOT, number)
    assert loan is not None
    assert isinstance(decode_request(loan.header, [], lambda span: segments.fetch(PEER, span)), InferRequest)
    segments.close()


def test_server_lets_go_of_a_segment_that_its_client_has_dropped() -> None:
    segment = create_segment(SIZE)
    segments, _ = attached(segment)
    segment.unlink()
    loan = segment.write(ONE_HOT, 1)
    segments.sweep()
    assert len(segments) == 1
    del segment, loan
    gc.collect()
    segments.sweep()
    assert len(segments) == 0


def test_no_room_in_memory_is_an_error_at_once_and_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = f"test-{os.getpid()}"
    monkeypatch.setattr(shm, "token_hex", lambda size: mark)
    with pytest.raises(OSError):
        create_segment(1 << 60)
    assert f"narsil-{mark}" not in names()

"""A session with shared memory: what it asks of a server, and when its calls go in frames after all."""

import os
from collections.abc import Iterator

import numpy as np
import pytest

from narsil_client import InvalidRequest, payloads
from narsil_client.arguments import infer_request
from narsil_client.call import Call
from narsil_client.session import Session
from narsil_transport.messages import (
    AttachReply,
    AttachRequest,
    ControlRequest,
    InferRequest,
    MetadataReply,
    Refused,
    ScoresReply,
)
from narsil_transport.segments import FOLDER, Segments
from narsil_transport.status import Refusal, Status
from narsil_transport.wire import decode_request, encode_attached, encode_metadata, encode_refusal, encode_scores
from tests.client.fake_server import DENSE, IDS, TIMES

SIZE = 1 << 14
ENDPOINT = "ipc:///tmp/server"

pytestmark = pytest.mark.skipif(not os.path.isdir(FOLDER), reason=f"no {FOLDER} here")


class Side:
    """A session and its server's side, with no socket between them."""

    def __init__(self, *, shm_bytes: int = SIZE, endpoint: str = ENDPOINT) -> None:
        self.session = Session([endpoint], 64, shm_bytes)
        self.segments = Segments(SIZE)

    def __enter__(self) -> "Side":
        self.session.up(0)
        return self

    def __exit__(self, *error: object) -> None:
        self.session.close(0)
        self.segments.close()

    def settle(self, *, offered: object = True) -> None:
        """Answer what the session asks."""
        while self.session.payloads.outbox:
            _, (header,) = self.session.payloads.outbox.popleft()
            request = decode_request(header, [], self.fetch)
            if isinstance(request, ControlRequest):
                reply = encode_metadata(MetadataReply(request.request_id, "v", {"shm": offered}))
            else:
                assert isinstance(request, AttachRequest)
                number = self.segments.attach(b"", request)
                assert isinstance(number, int), number
                reply = encode_attached(AttachReply(request.request_id, "v", number))
            assert self.session.receive(0, [reply], 0) is None

    def fetch(self, span: object) -> list[bytes] | Refusal:
        return self.segments.fetch(b"", span)  # type: ignore[arg-type]

    def begin(self, dense: object = DENSE) -> Call[ScoresReply]:
        request = infer_request(dense=np.asarray(dense), ids=IDS)
        return self.session.begin(request, ScoresReply, now_ns=0, expires_ns=1000)

    def send(self, call: Call[ScoresReply]) -> list[bytes]:
        """The message, as the session would send it now."""
        assert self.session.outgoing(0) is call
        return [*self.session.payloads.message(call)]

    def read(self, message: list[bytes]) -> InferRequest | Refused:
        header, *tensors = message
        request = decode_request(header, tensors, self.fetch)
        assert isinstance(request, InferRequest | Refused)
        return request

    def refuse(self, call: Call[ScoresReply]) -> Call[ScoresReply] | None:
        refusal = Refusal(Status.INVALID, "no")
        return self.session.receive(0, [encode_refusal(call.request_id, "v", refusal)], 1)

    def answer(self, call: Call[ScoresReply]) -> Call[ScoresReply] | None:
        scores = np.array([1, 2], np.float32)
        return self.session.receive(0, encode_scores(call.request_id, "v", 2, 2, TIMES, None, scores), 1)


@pytest.fixture
def side() -> Iterator[Side]:
    with Side() as made:
        made.settle()
        yield made


def dense_of(request: InferRequest | Refused) -> list[list[float]]:
    assert isinstance(request, InferRequest), request
    rows: list[list[float]] = request.dense.tolist()
    return rows


def test_attached_segment_carries_the_tensors(side: Side) -> None:
    message = side.send(side.begin())
    assert len(message) == 1
    assert dense_of(side.read(message)) == DENSE


@pytest.mark.parametrize("offered", [False, None, 1])
def test_frames_where_nothing_is_offered(offered: object) -> None:
    with Side() as side:
        side.settle(offered=offered)
        assert len(side.send(side.begin())) == 3


@pytest.mark.parametrize("shm_bytes, endpoint", [(0, ENDPOINT), (SIZE, "tcp://127.0.0.1:1")])
def test_nothing_is_asked_where_it_cannot_be(shm_bytes: int, endpoint: str) -> None:
    with Side(shm_bytes=shm_bytes, endpoint=endpoint) as side:
        assert not side.session.payloads.outbox
        assert len(side.send(side.begin())) == 3


def test_server_that_answers_attach_with_something_else_gets_frames_and_leaves_no_file() -> None:
    with Side() as side:
        outbox = side.session.payloads.outbox
        asked: list[object] = []
        for _ in range(2):
            _, (header,) = outbox.popleft()
            request = decode_request(header, [], side.fetch)
            assert isinstance(request, ControlRequest | AttachRequest)
            asked.append(request)
            metadata = encode_metadata(MetadataReply(request.request_id, "v", {"shm": True}))
            assert side.session.receive(0, [metadata], 0) is None
        assert isinstance(asked[1], AttachRequest) and asked[1].name not in os.listdir(FOLDER)
        assert not outbox and len(side.send(side.begin())) == 3


def test_frames_until_the_segment_is_attached() -> None:
    with Side() as side:
        assert len(side.send(side.begin())) == 3


def test_frames_where_no_memory_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(size_bytes: int) -> None:
        raise OSError

    monkeypatch.setattr(payloads, "create_segment", fails)
    with Side() as side:
        side.settle()
        assert len(side.send(side.begin())) == 3


def test_refused_span_is_sent_in_frames_once_and_with_the_same_values(side: Side) -> None:
    dense = np.array(DENSE)
    call = side.begin(dense)
    side.send(call)
    dense[:] = 9
    assert side.refuse(call) is None
    message = side.send(call)
    assert len(message) == 3 and dense_of(side.read(message)) == DENSE
    assert side.refuse(call) is call
    with pytest.raises(InvalidRequest):
        call.answer()


def test_segment_stays_in_use_after_a_request_that_is_invalid_in_frames_too(side: Side) -> None:
    call = side.begin()
    side.send(call)
    side.refuse(call)
    side.send(call)
    side.refuse(call)
    assert len(side.send(side.begin())) == 1


def test_segment_is_given_up_where_frames_do_what_it_did_not(side: Side) -> None:
    call = side.begin()
    side.send(call)
    side.refuse(call)
    side.send(call)
    assert side.answer(call) is call
    assert len(side.send(side.begin())) == 3


def test_lost_call_takes_its_values_to_the_next_connection(side: Side) -> None:
    dense = np.array(DENSE)
    call = side.begin(dense)
    side.send(call)
    dense[:] = 9
    assert side.session.down(0, 1) == []
    side.session.up(0)
    message = side.send(call)
    assert len(message) == 3 and dense_of(side.read(message)) == DENSE


def test_new_connection_has_a_segment_of_its_own(side: Side) -> None:
    side.session.down(0, 1)
    side.session.up(0)
    assert len(side.send(side.begin())) == 3
    side.settle()
    assert len(side.send(side.begin())) == 1


def test_message_that_found_no_room_goes_in_frames_later(side: Side) -> None:
    call = side.begin()
    side.send(call)
    side.session.unsent(call)
    side.session.writable(0)
    message = side.send(call)
    assert len(message) == 3 and dense_of(side.read(message)) == DENSE


@pytest.mark.parametrize("end", ["answer", "refuse", "expire", "forget"])
def test_slot_is_free_once_its_call_has_ended(end: str) -> None:
    with Side(shm_bytes=4096) as side:
        side.settle()
        wide = np.ones((2, 400), np.float32)
        call = side.begin(wide)
        assert len(side.send(call)) == 1
        second = side.begin(wide)
        assert len(side.send(second)) == 3
        match end:
            case "answer":
                side.answer(call)
            case "refuse":
                side.session.receive(0, [encode_refusal(call.request_id, "v", Refusal(Status.OVERLOADED, "no"))], 1)
            case "expire":
                side.session.expire(2000)
            case _:
                side.session.forget(call, 1)
        assert len(side.send(side.begin(wide))) == 1


def test_segment_smaller_than_a_page_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="shm_bytes of 0 or at least 4096"):
        Session([ENDPOINT], 1, 100)

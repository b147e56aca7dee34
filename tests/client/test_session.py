import pickle

import numpy as np
import pytest

from narsil_client import ClientClosed, RequestTimeout, ServerUnreachable, Status, errors
from narsil_client.arguments import infer_request
from narsil_client.call import Call, cancel_of
from narsil_client.errors import Refused
from narsil_client.scores import scores_of
from narsil_client.session import Session
from narsil_transport.messages import (
    CancelRequest,
    ControlRequest,
    HealthReply,
    HealthState,
    InferRequest,
    Operation,
    Priority,
    ScoresReply,
)
from narsil_transport.status import Refusal
from narsil_transport.wire import decode_request, encode_health, encode_refusal, encode_scores
from tests.client.fake_server import DENSE, IDS, TIMES


def connected(inflight_max: int) -> Session:
    """A session with one server, which is there."""
    session = Session(["tcp://one"], inflight_max)
    session.fleet.up(0)
    return session


def begin(session: Session, now_ns: int = 0, expires_ns: int = 1000) -> Call[ScoresReply]:
    """A call that was sent."""
    call = session.begin(infer_request(dense=DENSE, ids=IDS), ScoresReply, now_ns=now_ns, expires_ns=expires_ns)
    assert session.outgoing(now_ns) is call
    return call


def reply_to(request_id: int, scores: tuple[float, ...] = (0.25, 0.75)) -> tuple[bytes, bytes]:
    return encode_scores(request_id, "v7", 8, 2, TIMES, None, np.array(scores, np.float32))


def refusal_of(request_id: int, status: Status) -> list[bytes]:
    return [encode_refusal(request_id, "v7", Refusal(status, "no", 5, 7))]


def test_frames_are_the_request_with_its_id() -> None:
    request = infer_request(dense=DENSE, ids=IDS, model="m", deadline_us=7, priority="bulk", traceparent="tp", key="u1")
    call = connected(1).begin(request, ScoresReply, now_ns=0, expires_ns=1)
    header, *tensors = call.frames
    decoded = decode_request(header, tensors)
    assert isinstance(decoded, InferRequest)
    assert (decoded.request_id, decoded.model, decoded.deadline_us) == (call.request_id, "m", 7)
    assert (decoded.priority, decoded.traceparent, decoded.key) == (Priority.BULK, "tp", "u1")
    assert decoded.dense.tolist() == DENSE


def test_ids_increase() -> None:
    session = connected(3)
    assert [begin(session).request_id for _ in range(3)] == [1, 2, 3]


def test_a_reply_finishes_its_call() -> None:
    session = connected(1)
    call = begin(session, now_ns=1000)
    assert session.receive(0, reply_to(1), 6000) is call
    assert session.inflight == 0
    scores = scores_of(call)
    assert scores.scores.tolist() == [0.25, 0.75]
    assert (scores.version, scores.bucket_rows, scores.rows_filled) == ("v7", 8, 2)
    assert scores.times == TIMES
    assert scores.round_trip_us == 5.0


def test_replies_come_in_any_order() -> None:
    session = connected(2)
    first, second = begin(session), begin(session)
    assert session.receive(0, reply_to(2), 1) is second
    assert not first.done
    assert session.receive(0, reply_to(1), 2) is first


def test_the_window_is_full_until_a_call_is_done() -> None:
    session = connected(1)
    begin(session)
    assert session.full
    with pytest.raises(ValueError, match="in flight already"):
        session.begin(infer_request(dense=DENSE, ids=IDS), ScoresReply, now_ns=0, expires_ns=1)
    session.receive(0, reply_to(1), 1)
    assert not session.full


def test_a_forgotten_call_gives_its_place_back() -> None:
    session = connected(1)
    session.forget(begin(session), 1)
    assert not session.full
    assert session.receive(0, reply_to(1), 1) is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.INVALID, errors.InvalidRequest),
        (Status.UNSUPPORTED, errors.Unsupported),
        (Status.UNKNOWN_MODEL, errors.UnknownModel),
        (Status.TOO_LARGE, errors.TooLarge),
        (Status.OUT_OF_RANGE, errors.OutOfRange),
        (Status.NOT_FINITE, errors.NotFinite),
        (Status.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (Status.WOULD_MISS, errors.WouldMiss),
        (Status.OVERLOADED, errors.Overloaded),
        (Status.DRAINING, errors.Draining),
        (Status.UNAVAILABLE, errors.Unavailable),
        (Status.INTERNAL, errors.ServerError),
        (Status.CANCELLED, errors.Cancelled),
        (Status.UNAUTHORIZED, errors.Unauthorized),
    ],
)
def test_each_refusal_has_its_exception(status: Status, kind: type[Refused]) -> None:
    session = connected(1)
    call = begin(session)
    assert session.receive(0, refusal_of(1, status), 1) is call
    with pytest.raises(Refused) as caught:
        call.answer()
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.detail) == (status, "no")
    assert (caught.value.retry_after_us, caught.value.predicted_us) == (5, 7)
    assert str(caught.value) == f"{status.name}: no"


def test_every_status_but_ok_has_its_exception() -> None:
    kinds = {type(errors.refused(Refusal(status, "no"))) for status in Status if status is not Status.OK}
    assert len(kinds) == len(Status) - 1 and Refused not in kinds


def test_a_predicted_miss_is_caught_as_an_exceeded_deadline() -> None:
    assert issubclass(errors.WouldMiss, errors.DeadlineExceeded)


def test_a_refusal_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(errors.WouldMiss(Status.WOULD_MISS, "late", 9, 8)))
    assert (type(error), error.detail) == (errors.WouldMiss, "late")
    assert (error.retry_after_us, error.predicted_us) == (9, 8)


def test_calls_expire_at_their_time() -> None:
    session = connected(2)
    early, late = begin(session, expires_ns=10), begin(session, expires_ns=20)
    assert session.next_expiry_ns == 10
    assert session.expire(9) == []
    assert session.expire(10) == [early]
    with pytest.raises(RequestTimeout, match=r"no answer in 1e-08 s$"):
        early.answer()
    assert not late.done


def test_a_late_reply_is_dropped() -> None:
    session = connected(1)
    call = begin(session, expires_ns=10)
    session.expire(10)
    assert session.receive(0, reply_to(1), 11) is None
    assert call.reply is None


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([], "want the header"),
        ([b"hello"], "want the header"),
        ([b"NG\x01\x81\xc1", b""], "not msgpack"),
        (reply_to(1, (0.5,)), "1 scores for 2 rows"),
        ([encode_health(HealthReply(1, "v", HealthState.READY, 0, 0.0))], "a HealthReply for a request"),
        (refusal_of(0, Status.UNSUPPORTED), "no"),
    ],
)
def test_an_unusable_message_is_dropped_and_named_in_the_timeout(frames: list[bytes], text: str) -> None:
    session = connected(1)
    call = begin(session, expires_ns=10)
    assert session.receive(0, frames, 5) is None
    assert not call.done
    session.expire(10)
    with pytest.raises(RequestTimeout, match=f"an unusable message came: .*{text}"):
        call.answer()


def test_an_unusable_message_before_the_call_is_not_named() -> None:
    session = connected(1)
    session.receive(0, [b"hello"], 5)
    call = begin(session, now_ns=6, expires_ns=10)
    session.expire(10)
    with pytest.raises(RequestTimeout, match=r"s$"):
        call.answer()


def test_closing_fails_what_is_in_flight() -> None:
    session = connected(2)
    call = begin(session)
    assert session.close(1) == [call]
    assert session.inflight == 0
    with pytest.raises(ClientClosed):
        call.answer()


def test_only_a_request_for_scores_that_a_server_has_is_cancelled() -> None:
    session = connected(3)
    call = begin(session)
    health = session.begin(ControlRequest(0, Operation.HEALTH), HealthReply, now_ns=0, expires_ns=1)
    assert session.outgoing(0) is health
    unsent = session.begin(infer_request(dense=DENSE, ids=IDS), ScoresReply, now_ns=0, expires_ns=1)
    assert [decode_request(frame, []) for frame in cancel_of(call)] == [CancelRequest(1)]
    assert cancel_of(health) == cancel_of(unsent) == []


def test_a_call_that_no_server_has_ends_when_it_is_cancelled() -> None:
    session = Session(["tcp://one"], 1)
    call = session.begin(infer_request(dense=DENSE, ids=IDS), ScoresReply, now_ns=0, expires_ns=1)
    assert session.cancel(call, 1) is call
    assert (session.inflight, session.outgoing(1)) == (0, None)
    with pytest.raises(errors.Cancelled):
        call.answer()


def test_a_call_that_no_server_took_is_unreachable() -> None:
    session = Session(["tcp://one", "tcp://two"], 1)
    call = session.begin(infer_request(dense=DENSE, ids=IDS), ScoresReply, now_ns=0, expires_ns=1)
    assert session.outgoing(0) is None
    assert session.expire(1) == [call]
    with pytest.raises(ServerUnreachable, match="in time: tcp://one, tcp://two"):
        call.answer()


def test_a_control_request_gets_its_own_reply() -> None:
    session = connected(1)
    call = session.begin(ControlRequest(0, Operation.HEALTH), HealthReply, now_ns=0, expires_ns=1)
    assert session.outgoing(0) is call
    assert decode_request(bytes(call.frames[0]), []) == ControlRequest(1, Operation.HEALTH)
    session.receive(0, [encode_health(HealthReply(1, "v", HealthState.DRAINING, 2, 0.5))], 1)
    assert call.answer().state is HealthState.DRAINING


def test_a_window_holds_at_least_one() -> None:
    with pytest.raises(ValueError, match="inflight_max"):
        Session(["tcp://one"], 0)

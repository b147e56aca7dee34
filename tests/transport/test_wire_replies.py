"""Replies survive the wire, and bytes that are no reply are a WireError."""

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narsil_transport.header import MAGIC
from narsil_transport.status import Refusal, Status
from narsil_transport.wire import (
    AttachReply,
    Frame,
    HealthReply,
    HealthState,
    MetadataReply,
    RefusalReply,
    ScoresReply,
    StageTimes,
    WireError,
    decode_reply,
    encode_attached,
    encode_health,
    encode_metadata,
    encode_refusal,
    encode_scores,
)

TIMES = StageTimes(1.0, 2.0, 3.0, 4.0, 5.0)
HEALTH = HealthReply(1, "v", HealthState.READY, 0, 1.5)


@given(st.data())
def test_mutated_reply_decodes_or_is_a_wire_error(data: st.DataObject) -> None:
    frames = [bytearray(frame) for frame in encode_scores(1, "v", 4, 2, TIMES, None, np.ones(2, np.float32))]
    position = data.draw(st.integers(0, len(frames[0]) - 1))
    frames[0][position] = data.draw(st.integers(0, 255))
    try:
        got = decode_reply([bytes(frame) for frame in frames[: data.draw(st.integers(0, 2))]])
    except WireError:
        return
    assert isinstance(got, ScoresReply | RefusalReply | HealthReply | MetadataReply | AttachReply)


def test_scores_survive_and_are_copied() -> None:
    scores = np.array([0.5, 0.25], np.float32)
    frames = encode_scores(9, "v1", 4, 3, TIMES, "00-a", scores)
    scores[:] = 0
    got = decode_reply(frames)
    assert isinstance(got, ScoresReply) and got.scores.tolist() == [0.5, 0.25] and got.times == TIMES
    assert (got.request_id, got.version, got.bucket_rows, got.rows_filled) == (9, "v1", 4, 3)
    assert got.traceparent == "00-a"


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_refusal_survives(status: Status) -> None:
    refusal = Refusal(status, "no", retry_after_us=5, predicted_us=9)
    assert decode_reply([encode_refusal(2, "v", refusal)]) == RefusalReply(2, "v", refusal)


def test_status_of_a_newer_server_becomes_internal() -> None:
    frame = encode_refusal(2, "v", Refusal(Status.CANCELLED, "no")).replace(b"\xa1s\x0d", b"\xa1s\x63")
    got = decode_reply([frame])
    assert isinstance(got, RefusalReply) and got.refusal == Refusal(Status.INTERNAL, "status 99: no")


@pytest.mark.parametrize("eta", [-1, 1.5, True, None])
def test_refusal_with_a_bad_prediction_is_a_wire_error(eta: object) -> None:
    fields = {"id": 1, "v": "v", "s": 8, "e": "no", "eta": eta}
    with pytest.raises(WireError, match="'eta'"):
        decode_reply([MAGIC + b"\x01\x80" + msgpack.packb(fields)])


def test_health_and_metadata_survive() -> None:
    health = HealthReply(1, "v", HealthState.DRAINING, 4, 2.5)
    metadata = MetadataReply(2, "v", {"tables": list(range(40)), "deep": {"a": [1.5, None]}})
    assert decode_reply([encode_health(health)]) == health
    assert decode_reply([encode_metadata(metadata)]) == metadata


def test_scores_reply_with_an_error_status_is_a_wire_error() -> None:
    head, scores = encode_scores(9, "v1", 4, 3, TIMES, None, np.zeros(1, np.float32))
    with pytest.raises(WireError, match="status 7"):
        decode_reply([head.replace(b"\xa1s\x00", b"\xa1s\x07"), scores])


def test_scores_of_a_broken_length_are_a_wire_error() -> None:
    head, scores = encode_scores(9, "v1", 4, 3, TIMES, None, np.zeros(1, np.float32))
    with pytest.raises(WireError, match="multiple of 4"):
        decode_reply([head, scores[:-1]])


def test_a_refusal_cannot_say_ok_or_a_negative_time() -> None:
    with pytest.raises(ValueError, match="OK"):
        Refusal(Status.OK, "fine")
    with pytest.raises(ValueError, match="retry_after_us"):
        Refusal(Status.OVERLOADED, "full", retry_after_us=-1)
    with pytest.raises(ValueError, match="predicted_us"):
        Refusal(Status.WOULD_MISS, "late", predicted_us=-1)


def replies(window: int | None) -> list[tuple[Frame, ...]]:
    return [
        encode_scores(1, "v", 4, 2, TIMES, None, np.ones(2, np.float32), window=window),
        (encode_refusal(1, "v", Refusal(Status.OVERLOADED, "full"), window=window),),
        (encode_health(HEALTH, window=window),),
        (encode_metadata(MetadataReply(1, "v", {}), window=window),),
        (encode_attached(AttachReply(1, "v", 1), window=window),),
    ]


@pytest.mark.parametrize("window", [1, 256])
def test_every_reply_may_grant_a_window(window: int) -> None:
    assert [decode_reply(frames).window for frames in replies(window)] == [window] * 5


def test_a_reply_without_a_window_leaves_it_as_it_is() -> None:
    assert [decode_reply(frames).window for frames in replies(None)] == [None] * 5
    assert all(b"\xa1w" not in frames[0] for frames in replies(None))


def test_a_reply_is_written_with_the_window_it_has() -> None:
    health = HealthReply(1, "v", HealthState.READY, 0, 1.5, window=9)
    assert decode_reply([encode_health(health)]) == health


@pytest.mark.parametrize("window", [0, -1, True, 1.0, None, "64", [64]])
@pytest.mark.parametrize("start", [b"\x80", b"\x82"])
def test_a_window_that_grants_nothing_is_a_wire_error(window: Any, start: bytes) -> None:
    fields = {"id": 1, "v": "v", "e": "no", "state": "ready", "inflight": 0, "uptime_s": 1.5, "w": window}
    fields["s"] = 9 if start == b"\x80" else 0
    with pytest.raises(WireError, match="'w'"):
        decode_reply([MAGIC + b"\x01" + start + msgpack.packb(fields)])


def test_a_revoked_key_is_refused_by_its_own_status() -> None:
    refusal = Refusal(Status.UNAUTHORIZED, "this key was revoked")
    got = decode_reply([encode_refusal(1, "v", refusal)])
    assert isinstance(got, RefusalReply) and got.refusal.status == 14

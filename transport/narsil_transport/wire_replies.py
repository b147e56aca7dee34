"""Replies: what a server writes and a client reads."""

from collections.abc import Mapping, Sequence
from reprlib import repr as brief  # bounded in depth too: a plain repr of a deep array would overflow the stack
from typing import Any

import numpy as np

from narsil_transport.header import (
    PRELUDE_BYTES,
    REPLY_BIT,
    VERSION,
    WireError,
    optional_text,
    optional_uint,
    pack_header,
    prelude,
    require_float,
    require_text,
    require_uint,
    unpack_reply_fields,
)
from narsil_transport.messages import (
    AttachReply,
    Floats,
    HealthReply,
    HealthState,
    MetadataReply,
    Operation,
    RefusalReply,
    ScoresReply,
    StageTimes,
)
from narsil_transport.status import Refusal, Status
from narsil_transport.tensors import Frame

_F4 = np.dtype("<f4")

_SCORES = prelude(Operation.INFER | REPLY_BIT)
_HEALTH = prelude(Operation.HEALTH | REPLY_BIT)
_METADATA = prelude(Operation.METADATA | REPLY_BIT)
_ATTACHED = prelude(Operation.ATTACH | REPLY_BIT)
# Operation 0 is no request: a refusal may answer a message whose operation could not be read.
_REFUSAL = prelude(REPLY_BIT)
_STARTS = (_SCORES, _REFUSAL, _HEALTH, _METADATA, _ATTACHED)
_STATUSES = frozenset(Status)
_HEALTH_STATES = tuple(HealthState)


def encode_scores(
    request_id: int,
    version: str,
    bucket_rows: int,
    rows_filled: int,
    times: StageTimes,
    traceparent: str | None,
    scores: Floats,
    window: int | None = None,
    variant: str | None = None,
) -> tuple[bytes, bytes]:
    """Header and scores frame. The scores are copied, so the caller may reuse their buffer at once."""
    fields: dict[str, Any] = {
        "id": request_id,
        "s": 0,
        "v": version,
        "b": bucket_rows,
        "f": rows_filled,
        "us": times,
    }
    if traceparent is not None:
        fields["tp"] = traceparent
    if window is not None:
        fields["w"] = window
    if variant is not None:
        fields["variant"] = variant
    return pack_header(_SCORES, fields), scores.tobytes()


def encode_refusal(request_id: int, version: str, refusal: Refusal, window: int | None = None) -> bytes:
    """The only frame of a refusal."""
    fields: dict[str, Any] = {"id": request_id, "s": int(refusal.status), "v": version, "e": refusal.detail}
    if refusal.retry_after_us is not None:
        fields["retry"] = refusal.retry_after_us
    if refusal.predicted_us is not None:
        fields["eta"] = refusal.predicted_us
    return _only_frame(_REFUSAL, fields, window)


def encode_health(reply: HealthReply, window: int | None = None) -> bytes:
    """The only frame of a HEALTH reply. `window`, where given, takes the place of the reply's own."""
    state = {"state": reply.state.value, "inflight": reply.inflight, "uptime_s": reply.uptime_s}
    fields = {"id": reply.request_id, "s": 0, "v": reply.version, **state}
    return _only_frame(_HEALTH, fields, reply.window if window is None else window)


def encode_metadata(reply: MetadataReply, window: int | None = None) -> bytes:
    """The only frame of a METADATA reply. `window`, where given, takes the place of the reply's own."""
    fields = {"id": reply.request_id, "s": 0, "v": reply.version, "meta": reply.meta}
    return _only_frame(_METADATA, fields, reply.window if window is None else window)


def encode_attached(reply: AttachReply, window: int | None = None) -> bytes:
    """The only frame of an ATTACH reply. `window`, where given, takes the place of the reply's own."""
    fields = {"id": reply.request_id, "s": 0, "v": reply.version, "seg": reply.segment}
    return _only_frame(_ATTACHED, fields, reply.window if window is None else window)


def _only_frame(start: bytes, fields: dict[str, Any], window: int | None) -> bytes:
    if window is not None:
        fields["w"] = window
    return pack_header(start, fields)


def decode_reply(frames: Sequence[Frame]) -> ScoresReply | RefusalReply | HealthReply | MetadataReply | AttachReply:
    """The reply in these frames, the delimiter already taken off. Raises WireError on anything else.

    A status this version does not know (a newer server may add one) becomes INTERNAL, its number in the detail.
    """
    header = frames[0] if frames else b""
    start = bytes(header[:PRELUDE_BYTES])
    if start not in _STARTS:
        raise WireError(f"want the header of a version {VERSION} reply, got {start!r}")
    if len(frames) != (2 if start == _SCORES else 1):
        raise WireError(f"a reply that starts {start!r} has the wrong number of frames: {len(frames)}")
    fields = unpack_reply_fields(header)
    request_id, version, status = require_uint(fields, "id"), require_text(fields, "v"), require_uint(fields, "s")
    if (status == Status.OK) == (start == _REFUSAL):
        raise WireError(f"a reply that starts {start!r} cannot have the status {status}")
    window = optional_uint(fields, "w")
    if window == 0:
        raise WireError("'w' wants a window of at least 1")
    if start == _SCORES:
        return _scores(request_id, version, fields, frames[1], window)
    if start == _REFUSAL:
        return RefusalReply(request_id, version, _refusal(status, fields), window)
    if start == _HEALTH:
        return _health(request_id, version, fields, window)
    if start == _ATTACHED:
        return AttachReply(request_id, version, require_uint(fields, "seg"), window)
    meta = fields.get("meta")
    if type(meta) is not dict:
        raise WireError(f"'meta' wants a map, not {type(meta).__name__}")
    return MetadataReply(request_id, version, meta, window)


def _scores(request_id: int, version: str, fields: Mapping[str, Any], frame: Frame, window: int | None) -> ScoresReply:
    bucket_rows, rows_filled = require_uint(fields, "b"), require_uint(fields, "f")
    times = fields.get("us")
    if type(times) is not list or len(times) != len(StageTimes._fields):
        raise WireError(f"'us' wants {len(StageTimes._fields)} numbers, got {brief(times)}")
    if any(type(time_us) is not float for time_us in times):
        raise WireError(f"'us' wants float64 numbers, got {brief(times)}")
    if len(frame) % _F4.itemsize:
        raise WireError(f"scores want a multiple of {_F4.itemsize} bytes, got {len(frame)}")
    scores = np.ndarray(len(frame) // _F4.itemsize, _F4, frame)
    traceparent = optional_text(fields, "tp")
    stages, variant = StageTimes(*times), optional_text(fields, "variant")
    return ScoresReply(request_id, version, bucket_rows, rows_filled, stages, traceparent, scores, window, variant)


def _refusal(status: int, fields: Mapping[str, Any]) -> Refusal:
    detail = require_text(fields, "e")
    if status not in _STATUSES:
        status, detail = Status.INTERNAL, f"status {status}: {detail}"
    return Refusal(Status(status), detail, optional_uint(fields, "retry"), optional_uint(fields, "eta"))


def _health(request_id: int, version: str, fields: Mapping[str, Any], window: int | None) -> HealthReply:
    state = require_text(fields, "state")
    if state not in _HEALTH_STATES:
        raise WireError(f"'state' wants one of {', '.join(_HEALTH_STATES)}, got {brief(state)}")
    inflight, uptime_s = require_uint(fields, "inflight"), require_float(fields, "uptime_s")
    return HealthReply(request_id, version, HealthState(state), inflight, uptime_s, window)

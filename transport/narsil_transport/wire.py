"""Frames to values and back, pure. Everything a peer sends is parsed here, once; PROTOCOL.md is the contract.

`decode_request` and the `encode_*` of replies serve a server; `encode_request`, `encode_cancel` and `decode_reply` a
client.
"""

from collections.abc import Mapping, Sequence
from reprlib import repr as brief  # bounded in depth too: a plain repr of a deep array would overflow the stack
from typing import Any

import numpy as np
import numpy.typing as npt

from narsil_transport.header import (
    MAGIC,
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
    unpack_request_fields,
)
from narsil_transport.messages import (
    CancelRequest,
    ControlRequest,
    Floats,
    HealthReply,
    HealthState,
    InferRequest,
    MetadataReply,
    Operation,
    Priority,
    RefusalReply,
    Refused,
    ScoresReply,
    StageTimes,
)
from narsil_transport.status import Refusal, Status
from narsil_transport.tensors import FLOATS, INTEGERS, LENGTHS, Frame, describe_tensor, view_tensor

# A peer needs one import: the values that this module reads and writes are given out with it.
__all__ = [
    "TENSORS_MAX",
    "CancelRequest",
    "ControlRequest",
    "Frame",
    "HealthReply",
    "HealthState",
    "InferRequest",
    "MetadataReply",
    "Operation",
    "Priority",
    "RefusalReply",
    "Refused",
    "ScoresReply",
    "StageTimes",
    "WireError",
    "decode_reply",
    "decode_request",
    "encode_cancel",
    "encode_health",
    "encode_metadata",
    "encode_refusal",
    "encode_request",
    "encode_scores",
]

# An INFER carries three tensors at most, so a router need keep no more frames than one beyond that.
TENSORS_MAX = 3
TRACEPARENT_CHARS_MAX = 64

_F4 = np.dtype("<f4")

# As names of their own: reaching into the enum costs more than finding out that "p" is absent.
_INTERACTIVE, _BULK = Priority.INTERACTIVE, Priority.BULK

_START = MAGIC + bytes((VERSION,))
_CANCEL = prelude(Operation.CANCEL)
_SCORES = prelude(Operation.INFER | REPLY_BIT)
_HEALTH = prelude(Operation.HEALTH | REPLY_BIT)
_METADATA = prelude(Operation.METADATA | REPLY_BIT)
# Operation 0 is no request: a refusal may answer a message whose operation could not be read.
_REFUSAL = prelude(REPLY_BIT)
# The operations that carry no tensor frame.
_BARE = (Operation.HEALTH, Operation.METADATA, Operation.CANCEL)
_STATUSES = frozenset(Status)
_HEALTH_STATES = tuple(HealthState)


def decode_request(header: Frame, tensors: Sequence[Frame]) -> InferRequest | ControlRequest | CancelRequest | Refused:
    """The request in these frames (memoryviews of format B), or its refusal. Never raises on any bytes."""
    if len(header) < PRELUDE_BYTES or header[:3] != _START:
        return Refused(0, _refuse_prelude(bytes(header[:PRELUDE_BYTES])))
    request_id = 0
    try:
        fields = unpack_request_fields(header)
        request_id = require_uint(fields, "id")
        operation = header[3]
        if operation == Operation.INFER:
            return _infer(request_id, fields, tensors)
        if operation not in _BARE:
            return Refused(request_id, Refusal(Status.UNSUPPORTED, f"operation {operation} is not served"))
        if tensors:
            raise WireError(f"{Operation(operation).name} carries no tensor frame, got {len(tensors)}")
        if operation == Operation.CANCEL:
            return CancelRequest(request_id)
        return ControlRequest(request_id, Operation(operation))
    except WireError as error:
        return Refused(request_id, Refusal(Status.INVALID, str(error)))


def _refuse_prelude(start: bytes) -> Refusal:
    if len(start) < PRELUDE_BYTES or start[:2] != MAGIC:
        return Refusal(Status.INVALID, f"want a header that starts {MAGIC!r}, got {start!r}")
    return Refusal(Status.UNSUPPORTED, f"this server speaks version {VERSION}, not {start[2]}")


def _infer(request_id: int, fields: Mapping[str, Any], tensors: Sequence[Frame]) -> InferRequest:
    specs = fields.get("t")
    if type(specs) is not list or not 2 <= len(specs) <= TENSORS_MAX:
        raise WireError(f"'t' wants 2 or 3 entries, got {brief(specs)}")
    if len(specs) != len(tensors):
        raise WireError(f"'t' names {len(specs)} tensors, the message carries {len(tensors)}")
    model = optional_text(fields, "m")
    deadline_us = optional_uint(fields, "d")
    if deadline_us == 0:
        raise WireError("'d' wants a budget of at least 1 microsecond")
    traceparent = optional_text(fields, "tp")
    if traceparent is not None and len(traceparent) > TRACEPARENT_CHARS_MAX:
        raise WireError(f"'tp' wants at most {TRACEPARENT_CHARS_MAX} characters, got {len(traceparent)}")
    priority = _priority(fields["p"]) if "p" in fields else _INTERACTIVE
    dense = view_tensor(specs[0], tensors[0], "dense", FLOATS, 2)
    ids = lengths = values = None
    if len(specs) == 2:
        keys = ids = view_tensor(specs[1], tensors[1], "ids", INTEGERS, 2)
    else:
        keys = lengths = view_tensor(specs[1], tensors[1], "lengths", LENGTHS, 2)
        values = view_tensor(specs[2], tensors[2], "values", INTEGERS, 1)
    rows, width = dense.shape
    keyed_rows, features = keys.shape
    if rows != keyed_rows:
        raise WireError(f"dense has {rows} rows, {specs[1][0]} has {keyed_rows}")
    if not width or not features:
        raise WireError(f"want at least one dense column and one feature, got {width} and {features}")
    return InferRequest(request_id, model or "", deadline_us, traceparent, dense, ids, lengths, values, priority)


def _priority(value: object) -> Priority:
    if type(value) is not int or value not in (_INTERACTIVE, _BULK):
        raise WireError(f"'p' wants 0 (interactive) or 1 (bulk), not {brief(value)}")
    return Priority(value)


def encode_request(request: InferRequest | ControlRequest) -> list[bytes]:
    """Header, then one frame per tensor (copies). Raises WireError on a dtype the wire does not carry."""
    if isinstance(request, ControlRequest):
        return [pack_header(prelude(request.operation), {"id": request.request_id})]
    tensors: list[tuple[str, npt.NDArray[Any]]] = [("dense", request.dense)]
    for name, array in (("ids", request.ids), ("lengths", request.lengths), ("values", request.values)):
        if array is not None:
            tensors.append((name, array))
    fields: dict[str, Any] = {"id": request.request_id}
    if request.model:
        fields["m"] = request.model
    if request.deadline_us is not None:
        fields["d"] = request.deadline_us
    if request.traceparent is not None:
        fields["tp"] = request.traceparent
    if request.priority is _BULK:
        fields["p"] = 1
    fields["t"] = [describe_tensor(name, array) for name, array in tensors]
    return [pack_header(prelude(Operation.INFER), fields), *(array.tobytes() for _, array in tensors)]


def encode_cancel(request_id: int) -> bytes:
    """The only frame of a CANCEL of this INFER."""
    return pack_header(_CANCEL, {"id": request_id})


def encode_scores(
    request_id: int,
    version: str,
    bucket_rows: int,
    rows_filled: int,
    times: StageTimes,
    traceparent: str | None,
    scores: Floats,
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
    return pack_header(_SCORES, fields), scores.tobytes()


def encode_refusal(request_id: int, version: str, refusal: Refusal) -> bytes:
    """The only frame of a refusal."""
    fields = {"id": request_id, "s": int(refusal.status), "v": version, "e": refusal.detail}
    if refusal.retry_after_us is not None:
        fields["retry"] = refusal.retry_after_us
    if refusal.predicted_us is not None:
        fields["eta"] = refusal.predicted_us
    return pack_header(_REFUSAL, fields)


def encode_health(reply: HealthReply) -> bytes:
    """The only frame of a HEALTH reply."""
    state = {"state": reply.state.value, "inflight": reply.inflight, "uptime_s": reply.uptime_s}
    return pack_header(_HEALTH, {"id": reply.request_id, "s": 0, "v": reply.version, **state})


def encode_metadata(reply: MetadataReply) -> bytes:
    """The only frame of a METADATA reply."""
    fields = {"id": reply.request_id, "s": 0, "v": reply.version, "meta": reply.meta}
    return pack_header(_METADATA, fields)


def decode_reply(frames: Sequence[Frame]) -> ScoresReply | RefusalReply | HealthReply | MetadataReply:
    """The reply in these frames, the delimiter already taken off. Raises WireError on anything else.

    A status this version does not know (a newer server may add one) becomes INTERNAL, its number in the detail.
    """
    header = frames[0] if frames else b""
    start = bytes(header[:PRELUDE_BYTES])
    if start not in (_SCORES, _HEALTH, _METADATA, _REFUSAL):
        raise WireError(f"want the header of a version {VERSION} reply, got {start!r}")
    if len(frames) != (2 if start == _SCORES else 1):
        raise WireError(f"a reply that starts {start!r} has the wrong number of frames: {len(frames)}")
    fields = unpack_reply_fields(header)
    request_id, version, status = require_uint(fields, "id"), require_text(fields, "v"), require_uint(fields, "s")
    if (status == Status.OK) == (start == _REFUSAL):
        raise WireError(f"a reply that starts {start!r} cannot have the status {status}")
    if start == _SCORES:
        return _scores(request_id, version, fields, frames[1])
    if start == _REFUSAL:
        return RefusalReply(request_id, version, _refusal(status, fields))
    if start == _HEALTH:
        return _health(request_id, version, fields)
    meta = fields.get("meta")
    if type(meta) is not dict:
        raise WireError(f"'meta' wants a map, not {type(meta).__name__}")
    return MetadataReply(request_id, version, meta)


def _scores(request_id: int, version: str, fields: Mapping[str, Any], frame: Frame) -> ScoresReply:
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
    return ScoresReply(request_id, version, bucket_rows, rows_filled, StageTimes(*times), traceparent, scores)


def _refusal(status: int, fields: Mapping[str, Any]) -> Refusal:
    detail = require_text(fields, "e")
    if status not in _STATUSES:
        status, detail = Status.INTERNAL, f"status {status}: {detail}"
    return Refusal(Status(status), detail, optional_uint(fields, "retry"), optional_uint(fields, "eta"))


def _health(request_id: int, version: str, fields: Mapping[str, Any]) -> HealthReply:
    state = require_text(fields, "state")
    if state not in _HEALTH_STATES:
        raise WireError(f"'state' wants one of {', '.join(_HEALTH_STATES)}, got {brief(state)}")
    inflight, uptime_s = require_uint(fields, "inflight"), require_float(fields, "uptime_s")
    return HealthReply(request_id, version, HealthState(state), inflight, uptime_s)

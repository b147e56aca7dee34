"""Requests: what a client writes and a server reads."""

from collections.abc import Callable, Mapping, Sequence
from reprlib import repr as brief  # bounded in depth too: a plain repr of a deep array would overflow the stack
from typing import Any

import numpy as np
import numpy.typing as npt

from narsil_transport.header import (
    MAGIC,
    PRELUDE_BYTES,
    VERSION,
    WireError,
    optional_text,
    optional_uint,
    pack_header,
    prelude,
    require_text,
    require_uint,
    unpack_request_fields,
)
from narsil_transport.messages import (
    AttachRequest,
    CancelRequest,
    ControlRequest,
    InferRequest,
    Operation,
    Priority,
    Refused,
    Span,
)
from narsil_transport.status import Refusal, Status
from narsil_transport.tensors import FLOATS, INTEGERS, LENGTHS, Frame, describe_tensor, tensor_bytes, view_tensor
from narsil_transport.wire_user import items_of, masks_of, read_user, tensors_of_user

# An INFER carries three tensors of its items and three of its user at most, so a router need keep no more frames
# than one beyond that.
TENSORS_MAX = 6
TRACEPARENT_CHARS_MAX = 64
KEY_CHARS_MAX = 64
# What one request may make a server copy out of shared memory, which costs a client nothing to reserve. The largest
# request of a server by its defaults is a twentieth of it.
SPAN_BYTES_MAX = 1 << 26

# What a server that offers shared memory reads a span with: one `bytes` for each length, copied into its own memory.
Fetch = Callable[[Span], list[bytes] | Refusal]

# As names of their own: reaching into an enum costs more than finding out that "p" is absent.
_INTERACTIVE, _BULK = Priority.INTERACTIVE, Priority.BULK
_INFER = int(Operation.INFER)

_START = MAGIC + bytes((VERSION,))
_CANCEL = prelude(Operation.CANCEL)
_ATTACH = prelude(Operation.ATTACH)
# The operations that carry no tensor frame; ATTACH is served by those that read shared memory.
_BARE = (Operation.HEALTH, Operation.METADATA, Operation.CANCEL)
_BARE_AND_ATTACH = (*_BARE, Operation.ATTACH)


def decode_request(
    header: Frame, tensors: Sequence[Frame], fetch: Fetch | None = None
) -> InferRequest | ControlRequest | CancelRequest | AttachRequest | Refused:
    """The request in these frames (memoryviews of format B), or its refusal. Never raises on any bytes.

    Without `fetch`, which reads tensors that lie in shared memory, those are refused, and ATTACH is.
    """
    if len(header) < PRELUDE_BYTES or header[:3] != _START:
        return Refused(0, _refuse_prelude(bytes(header[:PRELUDE_BYTES])))
    request_id = 0
    try:
        fields = unpack_request_fields(header)
        request_id = require_uint(fields, "id")
        operation = header[3]
        if operation == _INFER:
            return _infer(request_id, fields, tensors, fetch)
        if operation not in (_BARE if fetch is None else _BARE_AND_ATTACH):
            return Refused(request_id, Refusal(Status.UNSUPPORTED, f"operation {operation} is not served"))
        if tensors:
            raise WireError(f"{Operation(operation).name} carries no tensor frame, got {len(tensors)}")
        if operation == Operation.CANCEL:
            return CancelRequest(request_id)
        if operation == Operation.ATTACH:
            return _attach(request_id, fields)
        return ControlRequest(request_id, Operation(operation))
    except WireError as error:
        return Refused(request_id, Refusal(Status.INVALID, str(error)))


def _refuse_prelude(start: bytes) -> Refusal:
    if len(start) < PRELUDE_BYTES or start[:2] != MAGIC:
        return Refusal(Status.INVALID, f"want a header that starts {MAGIC!r}, got {start!r}")
    return Refusal(Status.UNSUPPORTED, f"this server speaks version {VERSION}, not {start[2]}")


def _infer(
    request_id: int, fields: Mapping[str, Any], tensors: Sequence[Frame], fetch: Fetch | None
) -> InferRequest | Refused:
    specs = fields.get("t")
    if type(specs) is not list or not 2 <= len(specs) <= TENSORS_MAX:
        raise WireError(f"'t' wants 2 to {TENSORS_MAX} entries, got {brief(specs)}")
    model = optional_text(fields, "m")
    deadline_us = optional_uint(fields, "d")
    if deadline_us == 0:
        raise WireError("'d' wants a budget of at least 1 microsecond")
    traceparent = optional_text(fields, "tp")
    if traceparent is not None and len(traceparent) > TRACEPARENT_CHARS_MAX:
        raise WireError(f"'tp' wants at most {TRACEPARENT_CHARS_MAX} characters, got {len(traceparent)}")
    priority = _priority(fields["p"]) if "p" in fields else _INTERACTIVE
    key = _key(fields) if "k" in fields else None
    if "x" in fields:
        fetched = _fetched(fields["x"], specs, tensors, fetch)
        if isinstance(fetched, Refusal):
            return Refused(request_id, fetched)
        tensors = fetched
    if len(specs) != len(tensors):
        raise WireError(f"'t' names {len(specs)} tensors, the message carries {len(tensors)}")
    split = "u" in fields
    item_tensors = items_of(specs) if split else len(specs)
    dense = view_tensor(specs[0], tensors[0], "dense", FLOATS, 2)
    ids = lengths = values = user = None
    if item_tensors == 2:
        keys = ids = view_tensor(specs[1], tensors[1], "ids", INTEGERS, 2)
    elif item_tensors == 3:
        keys = lengths = view_tensor(specs[1], tensors[1], "lengths", LENGTHS, 2)
        values = view_tensor(specs[2], tensors[2], "values", INTEGERS, 1)
    else:
        raise WireError(f"'t' wants 2 or 3 entries without 'u', got {brief(specs)}")
    rows, width = dense.shape
    keyed_rows, features = keys.shape
    if rows != keyed_rows:
        raise WireError(f"dense has {rows} rows, {specs[1][0]} has {keyed_rows}")
    if split:
        user = read_user(fields["u"], specs[item_tensors:], tensors[item_tensors:], width, features)
    elif not width or not features:
        raise WireError(f"want at least one dense column and one feature, got {width} and {features}")
    return InferRequest(
        request_id, model or "", deadline_us, traceparent, dense, ids, lengths, values, priority, user, key
    )


def _priority(value: object) -> Priority:
    if type(value) is not int or value not in (_INTERACTIVE, _BULK):
        raise WireError(f"'p' wants 0 (interactive) or 1 (bulk), not {brief(value)}")
    return Priority(value)


def _key(fields: Mapping[str, Any]) -> str:
    key = require_text(fields, "k")
    if len(key) > KEY_CHARS_MAX:
        raise WireError(f"'k' wants at most {KEY_CHARS_MAX} characters, got {len(key)}")
    return key


def _fetched(place: object, specs: list[Any], tensors: Sequence[Frame], fetch: Fetch | None) -> list[bytes] | Refusal:
    if tensors:
        raise WireError(f"with 'x' a message carries no tensor frame, got {len(tensors)}")
    if type(place) is not list or len(place) != 3 or any(type(part) is not int or part < 0 for part in place):
        raise WireError(f"'x' wants [segment, generation, offset], got {brief(place)}")
    lengths_bytes = tuple(tensor_bytes(spec) for spec in specs)
    if sum(lengths_bytes) > SPAN_BYTES_MAX:
        raise WireError(f"'x' wants tensors of at most {SPAN_BYTES_MAX} bytes, got {sum(lengths_bytes)}")
    if fetch is None:
        return Refusal(Status.UNSUPPORTED, "this server reads no shared memory")
    segment, generation, offset = place
    return fetch(Span(segment, generation, offset, lengths_bytes))


def _attach(request_id: int, fields: Mapping[str, Any]) -> AttachRequest:
    name, size_bytes = require_text(fields, "name"), require_uint(fields, "bytes")
    try:
        return AttachRequest(request_id, name, size_bytes, require_uint(fields, "gen"))
    except ValueError as error:
        raise WireError(str(error)) from None


def encode_request(request: InferRequest | ControlRequest) -> list[bytes]:
    """Header, then one frame per tensor (copies). Raises WireError on a dtype the wire does not carry."""
    if isinstance(request, ControlRequest):
        return [pack_header(prelude(request.operation), {"id": request.request_id})]
    tensors = _tensors_of(request)
    return [_infer_header(request, tensors, {}), *(array.tobytes() for _, array in tensors)]


def encode_in_segment(
    request: InferRequest, *, segment: int, generation: int, offset: int
) -> tuple[bytes, list[npt.NDArray[Any]]]:
    """The only frame of a request whose tensors lie in shared memory, and these tensors, contiguous.

    They are to be written back to back from byte `offset` of the segment before the frame is sent, and left alone
    until the reply has come. Raises WireError on a dtype the wire does not carry, or on more than SPAN_BYTES_MAX.
    """
    tensors = _tensors_of(request)
    size_bytes = sum(array.nbytes for _, array in tensors)
    if size_bytes > SPAN_BYTES_MAX:
        raise WireError(f"want tensors of at most {SPAN_BYTES_MAX} bytes, got {size_bytes}")
    header = _infer_header(request, tensors, {"x": (segment, generation, offset)})
    return header, [np.ascontiguousarray(array) for _, array in tensors]


def _tensors_of(request: InferRequest) -> list[tuple[str, npt.NDArray[Any]]]:
    tensors: list[tuple[str, npt.NDArray[Any]]] = [("dense", request.dense)]
    for name, array in (("ids", request.ids), ("lengths", request.lengths), ("values", request.values)):
        if array is not None:
            tensors.append((name, array))
    return tensors if request.user is None else [*tensors, *tensors_of_user(request.user)]


def _infer_header(
    request: InferRequest, tensors: list[tuple[str, npt.NDArray[Any]]], place: Mapping[str, tuple[int, int, int]]
) -> bytes:
    fields: dict[str, Any] = {"id": request.request_id}
    if request.model:
        fields["m"] = request.model
    if request.deadline_us is not None:
        fields["d"] = request.deadline_us
    if request.traceparent is not None:
        fields["tp"] = request.traceparent
    if request.priority is _BULK:
        fields["p"] = 1
    if request.key is not None:
        fields["k"] = request.key
    if request.user is not None:
        fields["u"] = masks_of(request.user)
    fields |= place
    fields["t"] = [describe_tensor(name, array) for name, array in tensors]
    return pack_header(prelude(Operation.INFER), fields)


def encode_cancel(request_id: int) -> bytes:
    """The only frame of a CANCEL of this INFER."""
    return pack_header(_CANCEL, {"id": request_id})


def encode_attach(request: AttachRequest) -> bytes:
    """The only frame of an ATTACH."""
    fields = {"id": request.request_id, "name": request.name, "bytes": request.bytes, "gen": request.generation}
    return pack_header(_ATTACH, fields)

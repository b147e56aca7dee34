"""ATTACH, and INFERs whose tensors lie in shared memory: each form, and each way to get it wrong."""

from typing import Any

import msgpack

from narsil_transport.header import prelude, unpack_request_fields
from narsil_transport.wire import (
    SPAN_BYTES_MAX,
    AttachRequest,
    InferRequest,
    Operation,
    encode_attach,
    encode_in_segment,
    encode_request,
)
from tests.golden.case import GENERATION, SEGMENT, SEGMENT_START, Case

NAME = "narsil-golden.1"
# The tensors need not begin where the generation ends.
OFFSET = 16


def segment_cases(plain: InferRequest, user_once: InferRequest) -> list[Case]:
    """Every golden ATTACH, and these requests in shared memory."""
    return [
        *_attaches(),
        *(_placed(f"infer_{name}in_segment", request) for name, request in (("", plain), ("user_once_", user_once))),
        *_malformed(plain),
    ]


def _attaches() -> list[Case]:
    good: dict[str, Any] = {"id": 11, "name": NAME, "bytes": 4096, "gen": GENERATION}
    asked = encode_attach(AttachRequest(11, NAME, 4096, GENERATION))
    detached = encode_attach(AttachRequest(12, NAME, 0, GENERATION))

    def bad(name: str, fields: dict[str, Any], *tensors: bytes) -> Case:
        header = prelude(Operation.ATTACH) + msgpack.packb(good | fields)
        return Case(f"bad_attach_{name}", "request", (header, *tensors), SEGMENT_START)

    return [
        Case("attach", "request", (asked,), SEGMENT_START),
        Case("attach_to_detach", "request", (detached,), SEGMENT_START),
        Case("attach_where_none_is_offered", "request", (asked,)),
        bad("name_empty", {"name": ""}),
        bad("name_long", {"name": "a" * 65}),
        bad("name_slash", {"name": "../none"}),
        bad("name_zero", {"name": "a\0"}),
        bad("name_bytes", {"name": b"a"}),
        bad("bytes_negative", {"bytes": -1}),
        bad("bytes_boolean", {"bytes": True}),
        bad("generation_nil", {"gen": None}),
        bad("with_tensor", {}, b""),
    ]


def _placed(name: str, request: InferRequest) -> Case:
    header, tensors = encode_in_segment(request, segment=SEGMENT, generation=GENERATION, offset=OFFSET)
    memory = SEGMENT_START.ljust(OFFSET, b"\0") + b"".join(array.tobytes() for array in tensors)
    return Case(name, "request", (header,), memory)


def _malformed(plain: InferRequest) -> list[Case]:
    good = _placed("good", plain)
    fields = unpack_request_fields(good.frames[0])
    longest = ["dense", "f4", [SPAN_BYTES_MAX // 4, 1]]

    def bad(name: str, place: object, *tensors: bytes, specs: object = fields["t"]) -> Case:
        header = prelude(Operation.INFER) + msgpack.packb(fields | {"x": place, "t": specs})
        return Case(f"bad_segment_{name}", "request", (header, *tensors), good.segment)

    return [
        bad("nil", None),
        bad("place_short", [SEGMENT, GENERATION]),
        bad("place_long", [SEGMENT, GENERATION, OFFSET, 0]),
        bad("offset_negative", [SEGMENT, GENERATION, -1]),
        bad("offset_boolean", [SEGMENT, GENERATION, True]),
        bad("never_attached", [SEGMENT + 1, GENERATION, OFFSET]),
        bad("generation_before", [SEGMENT, GENERATION - 1, OFFSET]),
        bad("beyond_its_end", [SEGMENT, GENERATION, OFFSET + 1]),
        bad("offset_huge", [SEGMENT, GENERATION, (1 << 64) - 1]),
        bad("span_long", [SEGMENT, GENERATION, OFFSET], specs=[longest, fields["t"][1]]),
        bad("shape_negative", [SEGMENT, GENERATION, OFFSET], specs=[["dense", "f4", [-2, -3]], fields["t"][1]]),
        bad("with_tensors", [SEGMENT, GENERATION, OFFSET], *encode_request(plain)[1:]),
        Case("infer_in_segment_where_none_is_offered", "request", good.frames),
    ]

"""Frames to values and back, pure. Everything a peer sends is parsed here, once; PROTOCOL.md is the contract.

`decode_request` and the `encode_*` of replies serve a server; `encode_request`, `encode_in_segment`, `encode_cancel`,
`encode_attach` and `decode_reply` a client.
"""

from narsil_transport.header import WireError
from narsil_transport.messages import (
    WINDOW_START,
    AttachReply,
    AttachRequest,
    CancelRequest,
    ControlRequest,
    HealthReply,
    HealthState,
    InferRequest,
    MetadataReply,
    Operation,
    Priority,
    RefusalReply,
    Refused,
    ScoresReply,
    Span,
    StageTimes,
    UserPart,
)
from narsil_transport.tensors import Frame
from narsil_transport.wire_replies import (
    decode_reply,
    encode_attached,
    encode_health,
    encode_metadata,
    encode_refusal,
    encode_scores,
)
from narsil_transport.wire_requests import (
    KEY_CHARS_MAX,
    SPAN_BYTES_MAX,
    TENSORS_MAX,
    TRACEPARENT_CHARS_MAX,
    Fetch,
    decode_request,
    encode_attach,
    encode_cancel,
    encode_in_segment,
    encode_request,
)

# A peer needs one import: the values that these modules read and write are given out with them.
__all__ = [
    "KEY_CHARS_MAX",
    "SPAN_BYTES_MAX",
    "TENSORS_MAX",
    "TRACEPARENT_CHARS_MAX",
    "WINDOW_START",
    "AttachReply",
    "AttachRequest",
    "CancelRequest",
    "ControlRequest",
    "Fetch",
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
    "Span",
    "StageTimes",
    "UserPart",
    "WireError",
    "decode_reply",
    "decode_request",
    "encode_attach",
    "encode_attached",
    "encode_cancel",
    "encode_health",
    "encode_in_segment",
    "encode_metadata",
    "encode_refusal",
    "encode_request",
    "encode_scores",
]

"""The header frame: four bytes of prelude, then one msgpack map. The only module that knows msgpack."""

from collections.abc import Mapping
from reprlib import repr as brief
from typing import Any

import msgpack

MAGIC = b"NG"
VERSION = 1
REPLY_BIT = 0x80
PRELUDE_BYTES = 4
# A request header is about 100 bytes; a reply's may hold a model's whole specification.
REQUEST_HEADER_BYTES_MAX = 4096
REPLY_HEADER_BYTES_MAX = 1 << 20
# The unpacker allocates an array at the length it claims, nested up to 1024 deep: 16 bounds that at 128 KiB.
REQUEST_ARRAY_LENGTH_MAX = 16


class WireError(ValueError):
    """Bytes or values that are not a message of this protocol. The text is one sentence."""


def prelude(operation: int) -> bytes:
    """The first four bytes of a header: magic, version, operation."""
    return MAGIC + bytes((VERSION, operation))


def pack_header(start: bytes, fields: Mapping[str, Any]) -> bytes:
    """A whole header frame from its prelude and its map."""
    return start + msgpack.packb(fields)


def unpack_request_fields(header: bytes | memoryview) -> dict[str, Any]:
    """The map of a request's header, whatever its prelude says; raises WireError."""
    if len(header) > REQUEST_HEADER_BYTES_MAX:
        raise WireError(f"the header has {len(header)} bytes, at most {REQUEST_HEADER_BYTES_MAX} are read")
    try:
        fields = msgpack.unpackb(header[PRELUDE_BYTES:], max_array_len=REQUEST_ARRAY_LENGTH_MAX)
    except ValueError as error:
        raise WireError(f"the header is not msgpack: {str(error) or type(error).__name__}") from None
    return _string_map(fields)


def unpack_reply_fields(header: bytes | memoryview) -> dict[str, Any]:
    """The map of a reply's header, whatever its prelude says; raises WireError."""
    if len(header) > REPLY_HEADER_BYTES_MAX:
        raise WireError(f"the header has {len(header)} bytes, at most {REPLY_HEADER_BYTES_MAX} are read")
    try:
        fields = msgpack.unpackb(header[PRELUDE_BYTES:])
    except ValueError as error:
        raise WireError(f"the header is not msgpack: {str(error) or type(error).__name__}") from None
    return _string_map(fields)


def _string_map(fields: object) -> dict[str, Any]:
    # Keys may still be bytes, which no field of ours is: they count as unknown and are ignored.
    if type(fields) is not dict:
        raise WireError(f"the header wants a map, not {type(fields).__name__}")
    return fields


def require_uint(fields: Mapping[str, Any], key: str) -> int:
    """The unsigned integer at `key`; raises WireError if it is absent or another type (bool included)."""
    value = fields.get(key)
    if type(value) is not int or value < 0:
        raise WireError(f"{key!r} wants an unsigned integer, not {brief(value)}")
    return value


def require_text(fields: Mapping[str, Any], key: str) -> str:
    """The string at `key`; raises WireError if it is absent or another type."""
    value = fields.get(key)
    if type(value) is not str:
        raise WireError(f"{key!r} wants a string, not {brief(value)}")
    return value


def require_float(fields: Mapping[str, Any], key: str) -> float:
    """The float64 at `key`; raises WireError if it is absent or another type."""
    value = fields.get(key)
    if type(value) is not float:
        raise WireError(f"{key!r} wants a float64, not {brief(value)}")
    return value


def optional_uint(fields: Mapping[str, Any], key: str) -> int | None:
    """The unsigned integer at `key`, or None where the key is absent."""
    return require_uint(fields, key) if key in fields else None


def optional_text(fields: Mapping[str, Any], key: str) -> str | None:
    """The string at `key`, or None where the key is absent."""
    return require_text(fields, key) if key in fields else None

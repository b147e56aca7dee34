"""Every kind of message that a server must refuse, by the status that PROTOCOL.md gives it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from narsil_client.conformance.case import ID, ROWS, Array, Case, Frames, ModelShape, Rows, asked, header, infer
from narsil_transport.header import MAGIC, REQUEST_HEADER_BYTES_MAX, VERSION, prelude
from narsil_transport.messages import Operation
from narsil_transport.wire import KEY_CHARS_MAX, TRACEPARENT_CHARS_MAX


def malformed(shape: ModelShape) -> Iterator[Case]:
    rows = Rows.of(shape)
    yield from _preludes(rows)
    yield from _maps(rows)
    yield from _fields(rows)
    yield from _frame_counts(rows)
    yield from _shapes(shape, rows)
    yield from _contents(shape, rows)
    yield from _bags(shape, rows)
    yield from _operations(rows)
    yield from _sizes(shape, rows)


def invalid(name: str, *message: bytes, request_id: int = ID) -> Case:
    return asked(f"bad_{name}", message, "INVALID", request_id=request_id)


def _preludes(rows: Rows) -> Iterator[Case]:
    good, *tensors = infer(rows.one_hot)
    yield invalid("empty_header", b"", *tensors, request_id=0)
    yield invalid("only_an_empty_frame", b"", request_id=0)
    yield invalid("only_two_empty_frames", b"", b"", request_id=0)
    yield invalid("header_of_three_bytes", good[:3], request_id=0)
    yield invalid("magic", b"XX" + good[2:], *tensors, request_id=0)
    yield invalid("noise", bytes(np.random.default_rng(0).integers(0, 256, 200, np.uint8)), request_id=0)
    for version in (0, VERSION + 1, 255):
        name = "bad_version" if version == VERSION + 1 else f"bad_version_{version}"
        yield asked(name, (MAGIC + bytes((version,)) + good[3:], *tensors), "UNSUPPORTED", request_id=0)


def _maps(rows: Rows) -> Iterator[Case]:
    """Headers whose map, or the id in it, cannot be read."""
    good, *tensors = infer(rows.one_hot)
    start, packed = prelude(Operation.INFER), good[4:]
    maps = {
        "msgpack": packed[:-16],
        "no_map": b"",
        "list_for_a_map": b"\x93\x01\x02\x03",
        "bytes_after_the_map": packed + b"\xc0",
        "integer_key": b"\x82\x01\x02\xa2id\x09",
        "text_that_is_not_utf8": b"\x82\xa2id\x09\xa1m\xa2\xff\xfe",
        "nested_lists": b"\x82\xa2id\x09\xa1t" + b"\x91" * 2000,
        "nested_maps": b"\x81\xa1a" * 1000,
        "array_bomb": b"\x82\xa2id\x09\xa1t\xdd\xff\xff\xff\xff",
        "array_bombs": b"\x82\xa2id\x09\xa1t" + b"\xdc\x00\x10" * 600,
        "map_bomb": b"\xdf\xff\xff\xff\xff",
        "text_bomb": b"\x82\xa2id\x09\xa1m\xdb\xff\xff\xff\xff",
        "bytes_bomb": b"\x82\xa2id\x09\xa1m\xc6\xff\xff\xff\xff",
        "long_list": b"\x82\xa2id\x09\xa1t\xdc\x04\x00" + b"\x01" * 1024,
    }
    for name, body in maps.items():
        yield invalid(name, start + body, *tensors, request_id=0)
    for kind, wrong in {"boolean": True, "negative": -1, "float": 9.0, "text": "9", "nil": None, "list": [9]}.items():
        yield invalid(f"id_{kind}", *infer(rows.one_hot, id=wrong), request_id=0)
    yield invalid("no_id", header({"t": []}), *tensors, request_id=0)
    yield invalid("id_beyond_64_bits", start + b"\x81\xa2id\xc7\x09\x01" + b"\xff" * 9, request_id=0)


def _fields(rows: Rows) -> Iterator[Case]:
    wrong: dict[str, dict[str, Any]] = {
        "deadline_zero": {"d": 0},
        "deadline_negative": {"d": -1},
        "deadline_float": {"d": 1000.0},
        "deadline_boolean": {"d": True},
        "deadline_nil": {"d": None},
        "priority_value": {"p": 2},
        "priority_boolean": {"p": True},
        "priority_text": {"p": "bulk"},
        "model_integer": {"m": 1},
        "model_bytes": {"m": b"dlrm"},
        "traceparent_integer": {"tp": 0},
        "traceparent_long": {"tp": "0" * (TRACEPARENT_CHARS_MAX + 1)},
        "key_number": {"k": 17},
        "key_long": {"k": "x" * (KEY_CHARS_MAX + 1)},
        "tensors_nil": {"t": None},
        "tensors_map": {"t": {"dense": 1}},
        "tensors_none": {"t": []},
        "tensors_not_lists": {"t": ["dense", "ids"]},
    }
    for name, fields in wrong.items():
        yield invalid(name, *infer(rows.one_hot, **fields))
    unknown = infer(rows.one_hot, m="no such model")
    yield asked("unknown_model", unknown, "UNKNOWN_MODEL")
    _, *tensors = infer(rows.one_hot)
    yield invalid("tensors_absent", header({"id": ID}), *tensors)


def _frame_counts(rows: Rows) -> Iterator[Case]:
    good, dense, ids = infer(rows.one_hot)
    yield invalid("tensor_missing", good, dense)
    yield invalid("tensors_missing", good)
    yield invalid("tensor_surplus", good, dense, ids, ids)
    yield invalid("hundred_frames", good, dense, ids, *[b"x"] * 100)
    yield invalid("thousand_empty_frames", good, dense, ids, *[b""] * 1000)
    yield invalid("tensor_short", good, dense, ids[:-1])
    yield invalid("tensor_long", good, dense, ids + b"\0")
    yield invalid("tensor_empty", good, b"", ids)
    yield invalid("tensors_swapped", good, ids, dense)


def _shapes(shape: ModelShape, rows: Rows) -> Iterator[Case]:
    _, dense, ids = infer(rows.one_hot)
    width, features = rows.dense.shape[1], rows.ids.shape[1]
    for name, first, second in (
        ("dtype", ["dense", "f4", [ROWS, width]], ["ids", "f4", [ROWS, features]]),
        ("dtype_unknown", ["dense", "f4", [ROWS, width]], ["ids", "u4", [ROWS, features]]),
        ("tensor_name", ["dense", "f4", [ROWS, width]], ["keys", "i4", [ROWS, features]]),
        ("rows_disagree", ["dense", "f4", [ROWS, width]], ["ids", "i4", [1, ROWS * features]]),
        ("shape_negative", ["dense", "f4", [-ROWS, -width]], ["ids", "i4", [ROWS, features]]),
        ("shape_boolean", ["dense", "f4", [True, width]], ["ids", "i4", [True, features]]),
        ("shape_float", ["dense", "f4", [float(ROWS), width]], ["ids", "i4", [ROWS, features]]),
        ("shape_overflows", ["dense", "f4", [1 << 62, 1 << 62]], ["ids", "i4", [1 << 62, features]]),
        ("shape_beyond_64_bits", ["dense", "f4", [(1 << 64) - 1, width]], ["ids", "i4", [ROWS, features]]),
        ("shape_flat", ["dense", "f4", [ROWS * width]], ["ids", "i4", [ROWS, features]]),
        ("shape_of_lists", ["dense", "f4", [[ROWS], [width]]], ["ids", "i4", [ROWS, features]]),
    ):
        yield invalid(name, header({"id": ID, "t": [first, second]}), dense, ids)
    more, fewer = shape.dense_width + 1, rows.ids[:, :-1]
    yield invalid("dense_width", *infer([("dense", np.zeros((ROWS, more), "<f4")), ("ids", rows.ids)]))
    yield invalid("feature_count", *infer([("dense", rows.dense), ("ids", np.hstack([rows.ids, rows.ids]))]))
    yield invalid("feature_missing", *infer([("dense", rows.dense), ("ids", fewer)]))
    yield invalid("no_rows", *infer([("dense", rows.dense[:0]), ("ids", rows.ids[:0])]))
    yield invalid("no_columns", *infer([("dense", rows.dense[:, :0]), ("ids", rows.ids)]))


def _contents(shape: ModelShape, rows: Rows) -> Iterator[Case]:
    for name, value in (("nan", np.nan), ("infinite", np.inf), ("minus_infinite", -np.inf)):
        dense = rows.dense.copy()
        dense[-1, -1] = value
        # A server may be told to score these.
        yield asked(f"dense_{name}", infer([("dense", dense), ("ids", rows.ids)]), "NOT_FINITE", f"scores[{ROWS}]")
    end = shape.table_rows[-1]
    for name, value in (("negative", -1), ("end_of_table", end), ("beyond_int32", (1 << 32)), ("largest", 2**63 - 1)):
        wide = rows.ids.astype("<i8")
        wide[-1, -1] = value
        yield asked(f"id_{name}", infer([("dense", rows.dense), ("ids", wide)]), "OUT_OF_RANGE")
        bag = rows.values.astype("<i8")
        bag[-1] = value
        bags = [*rows.bags[:2], ("values", bag)]
        yield asked(f"bag_id_{name}", infer(bags), "OUT_OF_RANGE")


def _bags(shape: ModelShape, rows: Rows) -> Iterator[Case]:
    def lengths(name: str, changed: Array) -> Case:
        return invalid(name, *infer([("dense", rows.dense), ("lengths", changed), ("values", rows.values)]))

    yield lengths("lengths_exceed_values", rows.lengths + np.int32(1))
    yield lengths("lengths_below_values", np.zeros_like(rows.lengths))
    yield lengths("lengths_overflow", np.full_like(rows.lengths, 2**31 - 1))
    if rows.lengths.shape[1] > 1:
        negative = rows.lengths.copy()
        negative[0, :2] += np.array([3, -3], "<i4")
        yield lengths("lengths_negative", negative)
    yield invalid("lengths_i8", *infer([*rows.bags[:1], ("lengths", rows.lengths.astype("<i8")), rows.bags[2]]))
    crowded = np.zeros((1, rows.lengths.shape[1]), "<i4")
    crowded[0, 0] = shape.ids_per_row_max + 1
    bag = [("dense", rows.dense[:1]), ("lengths", crowded), ("values", np.zeros(crowded[0, 0], "<i4"))]
    yield too_large(shape, "too_many_ids_in_a_row", infer(bag))


def too_large(shape: ModelShape, name: str, message: Frames) -> Case:
    """Refused, or where a frame of it is not even received, cut."""
    if shape.takes(message):
        return asked(name, message, "TOO_LARGE")
    return Case(name=name, messages=(message,), wanted={}, cut=True)


def _operations(rows: Rows) -> Iterator[Case]:
    _, *tensors = infer(rows.one_hot)
    for operation in (0, 0x7F, 0x80, 0x81, 0xFF):
        message = (header({"id": ID}, operation=operation),)
        yield asked(f"operation_{operation:02x}", message, "UNSUPPORTED")
    yield asked("reserved_admin", (header({"id": ID}, operation=Operation.ADMIN),), "UNSUPPORTED")
    for operation in (Operation.HEALTH, Operation.METADATA, Operation.CANCEL):
        name = operation.name.lower()
        yield invalid(f"{name}_with_tensor", header({"id": ID}, operation=operation), tensors[-1])
        yield invalid(f"{name}_no_id", header({}, operation=operation), request_id=0)
        yield invalid(f"{name}_id_boolean", header({"id": True}, operation=operation), request_id=0)


def _sizes(shape: ModelShape, rows: Rows) -> Iterator[Case]:
    long_header = header({"id": ID, "t": [], "pad": "x" * REQUEST_HEADER_BYTES_MAX})
    if shape.takes((long_header,)):
        yield invalid("header_long", long_header, request_id=0)
    many = Rows.of(shape, shape.rows_max + 1)
    yield too_large(shape, "too_many_rows", infer(many.one_hot))
    if shape.frame_bytes_max is not None:
        good, dense, _ = infer(rows.one_hot)
        oversized = (good, dense, bytes(shape.frame_bytes_max + 1))
        yield Case(name="oversized_frame", messages=(oversized,), wanted={}, cut=True)

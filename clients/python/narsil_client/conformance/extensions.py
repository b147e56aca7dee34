"""Malformed user parts, and the shared memory of a connection that never attached any."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from narsil_client.conformance.case import ID, ROWS, Case, ModelShape, Rows, asked, header, infer
from narsil_client.conformance.malformed import invalid, too_large
from narsil_client.conformance.wellformed import SHARES, packed
from narsil_transport.messages import Operation
from narsil_transport.wire import SPAN_BYTES_MAX


def extensions(shape: ModelShape) -> Iterator[Case]:
    rows = Rows.of(shape)
    yield from _masks(rows)
    yield from _user_parts(rows)
    yield from _bombs(shape, rows)
    yield from _attaching(shape)
    yield from _segments(shape, rows)


def _masks(rows: Rows) -> Iterator[Case]:
    mine, keyed = SHARES[""](rows.dense.shape[1]), SHARES[""](rows.ids.shape[1])
    columns, features = packed(mine), packed(keyed)
    tensors = [
        *(("dense", rows.dense[:, ~mine]), ("ids", rows.ids[:, ~keyed])),
        *(("user_dense", rows.dense[0, mine]), ("user_ids", rows.ids[0, keyed])),
    ]
    more, fewer = mine.copy(), keyed.copy()
    more[-1], fewer[0] = not more[-1], False
    for name, masks in (
        ("masks_nil", None),
        ("masks_text", ["a", "b"]),
        ("mask_missing", [columns]),
        ("mask_surplus", [columns, features, features]),
        ("mask_empty", [b"", features]),
        ("mask_long", [columns + b"\0", features]),
        ("mask_short", [columns, features[:-1]]),
        ("mask_of_more_columns", [packed(more), features]),
        ("mask_of_fewer_features", [columns, packed(fewer)]),
    ):
        yield invalid(f"user_{name}", *infer(tensors, u=masks))
    yield invalid("user_masks_absent", *infer(tensors))
    if len(keyed) % 8:
        beyond = features[:-1] + bytes((features[-1] | 0x80,))
        yield invalid("user_mask_bit_beyond", *infer(tensors, u=[columns, beyond]))


def _user_parts(rows: Rows) -> Iterator[Case]:
    mine, keyed = SHARES[""](rows.dense.shape[1]), SHARES[""](rows.ids.shape[1])
    u = [packed(mine), packed(keyed)]
    items = [("dense", rows.dense[:, ~mine]), ("ids", rows.ids[:, ~keyed])]
    dense, ids = rows.dense[0, mine], rows.ids[0, keyed]
    user_dense, user_ids = ("user_dense", dense), ("user_ids", ids)
    good = infer([*items, user_dense, user_ids], u=u)
    yield invalid("user_part_missing", *infer(items, u=u))
    yield invalid("user_part_half", *infer([*items, user_dense], u=u))
    yield invalid("user_part_first", *infer([user_dense, user_ids, *items], u=u))
    yield invalid("user_tensor_short", *good[:-1], good[-1][:-1])
    yield invalid("user_dense_short", *infer([*items, ("user_dense", dense[:-1]), user_ids], u=u))
    yield invalid("user_ids_short", *infer([*items, user_dense, ("user_ids", ids[:-1])], u=u))
    yield invalid("user_dense_of_rows", *infer([*items, ("user_dense", dense[None]), user_ids], u=u))
    yield invalid("user_ids_dtype", *infer([*items, user_dense, ("user_ids", ids.astype("<f4"))], u=u))
    outside, nan = ids.astype("<i8"), np.full_like(dense, np.nan)
    outside[0] = -1
    yield asked("user_id_negative", infer([*items, user_dense, ("user_ids", outside)], u=u), "OUT_OF_RANGE")
    message = infer([*items, ("user_dense", nan), user_ids], u=u)
    yield asked("user_dense_nan", message, "NOT_FINITE", f"scores[{ROWS}]")
    negative = [("user_lengths", np.full_like(ids, -1)), ("user_values", ids[:0])]
    yield invalid("user_lengths_negative", *infer([*items, user_dense, *negative], u=u))
    surplus = [("user_lengths", np.zeros_like(ids)), ("user_values", ids)]
    yield invalid("user_values_surplus", *infer([*items, user_dense, *surplus], u=u))


def _bombs(shape: ModelShape, rows: Rows) -> Iterator[Case]:
    """Rows and ids that cost the sender nothing: they must be counted before they are made."""
    everything = SHARES["_of_everything"]
    u = [packed(everything(shape.dense_width)), packed(everything(len(shape.table_rows)))]
    dense, ids = rows.dense[0], rows.ids[0]
    for suffix, count in (("too_many_rows", shape.rows_max + 1), ("2_31_rows", 1 << 31), ("2_40_rows", 1 << 40)):
        specs = [
            ["dense", "f4", [count, 0]],
            ["ids", "i4", [count, 0]],
            ["user_dense", "f4", [len(dense)]],
            ["user_ids", "i4", [len(ids)]],
        ]
        message = (header({"id": ID, "t": specs, "u": u}), b"", b"", dense.tobytes(), ids.tobytes())
        yield asked(f"infer_user_once_of_{suffix}", message, "TOO_LARGE")
    lengths = np.zeros_like(ids)
    lengths[0] = shape.ids_per_row_max + 1
    items = [("dense", rows.dense[:, :0]), ("ids", rows.ids[:, :0])]
    bag = [("user_lengths", lengths), ("user_values", np.zeros(lengths[0], "<i4"))]
    yield too_large(shape, "user_once_too_many_ids", infer([*items, ("user_dense", dense), *bag], u=u))


def _attaching(shape: ModelShape) -> Iterator[Case]:
    good = {"id": ID, "name": "narsil-no-such-segment", "bytes": 4096, "gen": 1}
    refused = "INVALID" if shape.shm else "UNSUPPORTED"

    def attach(case: str, *outcomes: str, tensors: tuple[bytes, ...] = (), **fields: object) -> Case:
        return asked(case, (header(good | fields, operation=Operation.ATTACH), *tensors), *outcomes)

    yield attach("attach_what_is_not_there", refused)
    yield attach("attach_to_detach", "attached" if shape.shm else "UNSUPPORTED", bytes=0)
    bad: tuple[tuple[str, dict[str, Any]], ...] = (
        ("name_empty", {"name": ""}),
        ("name_long", {"name": "a" * 65}),
        ("name_slash", {"name": "../none"}),
        ("name_dots", {"name": ".."}),
        ("name_zero", {"name": "a\0"}),
        ("name_bytes", {"name": b"a"}),
        ("bytes_negative", {"bytes": -1}),
        ("bytes_boolean", {"bytes": True}),
        ("bytes_huge", {"bytes": (1 << 64) - 1}),
        ("generation_nil", {"gen": None}),
    )
    for name, wrong in bad:
        yield attach(f"bad_attach_{name}", refused, **wrong)
    yield attach("bad_attach_with_tensor", refused, tensors=(b"",))


def _segments(shape: ModelShape, rows: Rows) -> Iterator[Case]:
    both, *tensors = infer(rows.one_hot, x=[1, 1, 8])
    specs = [["dense", "f4", [*rows.dense.shape]], ["ids", "i4", [*rows.ids.shape]]]

    def placed(name: str, place: object, *outcomes: str, specs: object = specs) -> Case:
        return asked(f"bad_segment_{name}", (header({"id": ID, "t": specs, "x": place}),), *outcomes)

    for name, place in (
        ("nil", None),
        ("place_short", [1, 1]),
        ("place_long", [1, 1, 8, 0]),
        ("offset_negative", [1, 1, -1]),
        ("offset_boolean", [1, 1, True]),
    ):
        yield placed(name, place, "INVALID")
    long = ["dense", "f4", [SPAN_BYTES_MAX // 4, 1]]
    negative = ["dense", "f4", [-ROWS, -1]]
    yield placed("span_long", [1, 1, 8], "INVALID", specs=[long, specs[1]])
    yield placed("shape_negative", [1, 1, 8], "INVALID", specs=[negative, specs[1]])
    refused = "INVALID" if shape.shm else "UNSUPPORTED"
    yield placed("never_attached", [1, 1, 8], refused)
    yield placed("offset_huge", [1, 1, (1 << 64) - 1], refused)
    yield invalid("segment_with_tensors", both, *tensors)

"""INFERs with a user's part: each form of it, and each way to get it wrong."""

from dataclasses import replace
from typing import Any

import msgpack
import numpy as np

from narsil_transport.header import prelude, unpack_request_fields
from narsil_transport.wire import InferRequest, Operation, UserPart, encode_request
from tests.golden.case import Case

# Of a model of three dense columns and two features, the user has column 1 and feature 0.
COLUMNS, FEATURES = np.array([False, True, False]), np.array([True, False])
DENSE = np.array([[0.5, 2.0], [0.25, -0.125]], "<f4")
IDS = np.array([[0], [7]], "<i4")
USER_DENSE = np.array([-1.0], "<f4")
USER_IDS = np.array([3], "<i4")
LENGTHS, VALUES = np.array([[2], [0]], "<i4"), np.array([5, 6], "<i4")
USER_LENGTHS, USER_VALUES = np.array([3], "<i4"), np.array([1, 2, 1], "<i8")

ONE_HOT_USER = UserPart(COLUMNS, FEATURES, USER_DENSE, USER_IDS)
ONE_HOT = InferRequest(10, "", None, None, DENSE, IDS, None, None, user=ONE_HOT_USER)


def user_cases() -> list[Case]:
    """Every golden INFER with a user's part."""
    return [*_good(), *_malformed()]


def _good() -> list[Case]:
    in_bags = UserPart(COLUMNS, FEATURES, USER_DENSE, None, USER_LENGTHS, USER_VALUES)
    nothing = UserPart(~COLUMNS & COLUMNS, ~FEATURES & FEATURES, USER_DENSE[:0], USER_IDS[:0])
    all_of_it = UserPart(COLUMNS | True, FEATURES | True, np.array([0.5, -1.0, 2.0], "<f4"), np.array([3, 0], "<i4"))
    item_bags = replace(ONE_HOT, ids=None, lengths=LENGTHS, values=VALUES)
    # 19 columns and 9 features: masks of more than a byte.
    wide = UserPart(np.arange(19) % 2 == 0, np.arange(9) == 8, np.arange(10, dtype="<f4"), USER_IDS.astype("<i8"))
    wide_dense, wide_ids = np.ones((1, 9), "<f4"), np.arange(8, dtype="<i4")[None]
    requests = {
        "infer_user_once": ONE_HOT,
        "infer_user_once_wide": replace(ONE_HOT, dense=wide_dense, ids=wide_ids, user=wide),
        "infer_user_once_user_bags": replace(ONE_HOT, user=in_bags),
        "infer_user_once_item_bags": item_bags,
        "infer_user_once_bags": replace(item_bags, user=in_bags),
        "infer_user_once_of_everything": replace(ONE_HOT, dense=DENSE[:, :0], ids=IDS[:, :0], user=all_of_it),
        "infer_user_once_of_nothing": replace(
            ONE_HOT, dense=np.ones((2, 3), "<f4"), ids=np.zeros((2, 2), "<i4"), user=nothing
        ),
        # It decodes, for nothing is allocated; a server refuses it for its rows.
        "infer_user_once_of_too_many_rows": replace(
            ONE_HOT,
            dense=np.ndarray((1 << 40, 0), "<f4", b""),
            ids=np.ndarray((1 << 40, 0), "<i4", b""),
            user=all_of_it,
        ),
    }
    return [Case(name, "request", tuple(encode_request(request))) for name, request in requests.items()]


def _malformed() -> list[Case]:
    header, dense, ids, user_dense, user_ids = encode_request(ONE_HOT)
    good = unpack_request_fields(header)
    columns, features = good["u"]
    items, user = good["t"][:2], good["t"][2:]

    def bad(name: str, fields: dict[str, Any], *tensors: bytes) -> Case:
        head = prelude(Operation.INFER) + msgpack.packb(fields)
        return Case(f"bad_user_{name}", "request", (head, *(tensors or (dense, ids, user_dense, user_ids))))

    return [
        bad("masks_absent", {key: value for key, value in good.items() if key != "u"}),
        bad("masks_nil", good | {"u": None}),
        bad("masks_text", good | {"u": [columns.decode(), features.decode()]}),
        bad("mask_missing", good | {"u": [columns]}),
        bad("mask_surplus", good | {"u": [columns, features, features]}),
        bad("mask_empty", good | {"u": [b"", features]}),
        bad("mask_long", good | {"u": [columns + b"\0", features]}),
        bad("mask_bit_beyond", good | {"u": [columns, b"\x05"]}),
        bad("mask_of_more_columns", good | {"u": [b"\x06", features]}),
        bad("mask_of_fewer_features", good | {"u": [columns, b"\0"]}),
        bad("part_missing", good | {"t": items}, dense, ids),
        bad("part_half", good | {"t": [*items, user[0]]}, dense, ids, user_dense),
        bad("part_first", good | {"t": [*user, *items]}, user_dense, user_ids, dense, ids),
        bad("tensor_short", good, dense, ids, user_dense, user_ids[:-1]),
        bad("dense_of_rows", good | {"t": [*items, ["user_dense", "f4", [1, 1]], user[1]]}),
        bad("ids_dtype", good | {"t": [*items, user[0], ["user_ids", "f4", [1]]]}),
    ]

"""Every kind of request that a server must serve."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from narsil_client.conformance.case import (
    ID,
    ROWS,
    TRACEPARENT,
    Case,
    ModelShape,
    Rows,
    asked,
    header,
    infer,
)
from narsil_transport.messages import Mask, Operation
from narsil_transport.wire import encode_cancel

UINT_MAX = (1 << 64) - 1
# A budget that any server keeps, and one that none does.
AMPLE_US, HOPELESS_US = 30_000_000, 1
SCORES = f"scores[{ROWS}]"
# libzmq drops what is above its high-water mark of 1000 messages.
BURST_MAX = 900


def wellformed(shape: ModelShape) -> Iterator[Case]:
    rows = Rows.of(shape)
    yield from _plain(shape, rows)
    yield from _bags(rows)
    yield from _user_once(rows)
    yield from _control()
    yield from _several(shape, rows)


def _plain(shape: ModelShape, rows: Rows) -> Iterator[Case]:
    wide = [("dense", rows.dense), ("ids", rows.ids.astype("<i8"))]
    every = {"id": UINT_MAX, "m": shape.name, "d": AMPLE_US, "p": 0, "tp": TRACEPARENT}
    like = "infer_ids_i4"
    yield asked(like, infer(rows.one_hot), SCORES)
    yield asked("infer_ids_i8", infer(wide), SCORES, like=like)
    full = infer(wide, **every)
    yield asked("infer_ids_i8_every_field", full, SCORES, request_id=UINT_MAX, like=like, traced=True)
    yield asked("infer_id_zero", infer(rows.one_hot, id=0), SCORES, request_id=0, like=like)
    yield asked("infer_bulk", infer(rows.one_hot, p=1), SCORES, like=like)
    # Like no other: where requests are split, its key may be another model's.
    yield asked("infer_keyed", infer(rows.one_hot, k="user-17"), SCORES)
    yield asked("infer_traced", infer(rows.one_hot, tp=TRACEPARENT), SCORES, like=like, traced=True)
    yield asked("infer_deadline_ample", infer(rows.one_hot, d=AMPLE_US), SCORES, like=like)
    yield asked("infer_deadline_largest", infer(rows.one_hot, d=UINT_MAX), SCORES, like=like)
    hopeless = infer(rows.one_hot, d=HOPELESS_US)
    yield asked("infer_deadline_hopeless", hopeless, SCORES, "WOULD_MISS", "DEADLINE_EXCEEDED")
    yield asked("infer_by_a_req", (b"", *infer(rows.one_hot)), SCORES, like=like)
    yield asked("priority_zero", infer(rows.one_hot, p=0), SCORES, like=like)
    yield asked("unknown_key_is_ignored", infer(rows.one_hot, later=True), SCORES, like=like)
    one = [(name, array[:1]) for name, array in rows.one_hot]
    yield asked("infer_one_row", infer(one), "scores[1]")
    largest = Rows.of(shape, shape.rows_max)
    yield asked("infer_rows_max", infer(largest.one_hot), f"scores[{shape.rows_max}]")


def _bags(rows: Rows) -> Iterator[Case]:
    dense, lengths = rows.dense, rows.lengths
    yield asked("infer_bags_i4", infer(rows.bags), SCORES)
    wide = [("dense", dense), ("lengths", lengths), ("values", rows.values.astype("<i8"))]
    yield asked("infer_bags_i8", infer(wide), SCORES, like="infer_bags_i4")
    ones = [("dense", dense), ("lengths", np.ones_like(lengths)), ("values", rows.ids.reshape(-1))]
    yield asked("infer_bags_of_one_are_one_hot", infer(ones), SCORES, like="infer_ids_i4")
    empty = [("dense", dense), ("lengths", np.zeros_like(lengths)), ("values", rows.values[:0])]
    yield asked("infer_bags_all_empty", infer(empty), SCORES)


# Which columns, and which features, are the user's.
SHARES: Mapping[str, Callable[[int], Mask]] = {
    "": lambda count: np.arange(count) % 2 == 0,
    "_of_thirds": lambda count: np.arange(count) % 3 == 0,
    "_of_everything": lambda count: np.ones(count, np.bool_),
    "_of_nothing": lambda count: np.zeros(count, np.bool_),
}


def packed(mask: Mask) -> bytes:
    """A user mask as the wire has it."""
    return np.packbits(mask, bitorder="little").tobytes()


def _user_once(rows: Rows) -> Iterator[Case]:
    """Rows in which the user's columns and features are those of row 0, whole and then with the user's part apart."""
    for suffix, share in SHARES.items():
        mine, keyed = share(rows.dense.shape[1]), share(rows.ids.shape[1])
        dense, ids = rows.dense.copy(), rows.ids.copy()
        dense[:, mine], ids[:, keyed] = dense[0, mine], ids[0, keyed]
        whole = f"infer_as_user_once{suffix}"
        yield asked(whole, infer([("dense", dense), ("ids", ids)]), SCORES)
        items, user = ids[:, ~keyed], ids[0, keyed]
        item_dense, user_dense = ("dense", dense[:, ~mine]), ("user_dense", dense[0, mine])
        one_hot, user_one_hot = [("ids", items)], [("user_ids", user)]
        bags = [("lengths", np.ones_like(items)), ("values", items.reshape(-1))]
        user_bags = [("user_lengths", np.ones_like(user)), ("user_values", user)]
        for form, of_items, of_user in (
            ("", one_hot, user_one_hot),
            ("_wide", one_hot, [("user_ids", user.astype("<i8"))]),
            ("_user_bags", one_hot, user_bags),
            ("_item_bags", bags, user_one_hot),
            ("_bags", bags, user_bags),
        ):
            tensors = [item_dense, *of_items, user_dense, *of_user]
            message = infer(tensors, u=[packed(mine), packed(keyed)])
            yield asked(f"infer_user_once{suffix}{form}", message, SCORES, like=whole)


def _control() -> Iterator[Case]:
    yield asked("health", (header({"id": ID}, operation=Operation.HEALTH),), "health")
    yield asked("health_by_a_req", (b"", header({"id": ID}, operation=Operation.HEALTH)), "health")
    yield asked("metadata", (header({"id": ID}, operation=Operation.METADATA),), "metadata")
    yield Case(name="cancel", messages=((encode_cancel(ID),),), wanted={})


def _several(shape: ModelShape, rows: Rows) -> Iterator[Case]:
    request, cancel = infer(rows.one_hot), (encode_cancel(ID),)
    yield Case(name="cancel_follows", messages=(request, cancel), wanted={ID: (SCORES, "CANCELLED")})
    yield Case(name="cancel_twice", messages=(request, cancel, cancel), wanted={ID: (SCORES, "CANCELLED")})
    numbers = range(1, min(shape.window + 8, BURST_MAX) + 1)
    yield Case(
        name="burst_beyond_the_window",
        messages=tuple(infer(rows.one_hot, id=number) for number in numbers),
        wanted=dict.fromkeys(numbers, (SCORES, "OVERLOADED")),
    )

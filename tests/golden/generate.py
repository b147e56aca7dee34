"""The golden frames: every message and refusal of PROTOCOL.md, as bytes that each implementation must read and write.

`python -m tests.golden.generate` writes frames/: NAME.json says what NAME.0.bin, NAME.1.bin, ... mean, to a reader who
knows of shared memory only if there is "segment", the bytes of the segment 1 of generation 5, attached before.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from narsil_transport.header import MAGIC, REPLY_BIT, VERSION, prelude
from narsil_transport.status import Refusal, Status
from narsil_transport.wire import (
    AttachReply,
    ControlRequest,
    Frame,
    HealthReply,
    HealthState,
    InferRequest,
    MetadataReply,
    Operation,
    Priority,
    StageTimes,
    encode_attached,
    encode_cancel,
    encode_health,
    encode_metadata,
    encode_refusal,
    encode_request,
    encode_scores,
)
from tests.golden.case import SEGMENT, Case
from tests.golden.segment_cases import segment_cases
from tests.golden.user_cases import ONE_HOT as USER_ONCE
from tests.golden.user_cases import user_cases

FRAMES = Path(__file__).parent / "frames"
DENSE = np.array([[0.5, -1.0, 2.0], [0.25, 0.0, -0.125]], "<f4")
IDS = np.array([[3, 0], [1, 7]], "<i4")
LENGTHS = np.array([[2, 0], [1, 1]], "<i4")
VALUES = np.array([5, 6, 7, 8], "<i8")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ONE_HOT = InferRequest(1, "", None, None, DENSE, IDS, None, None)
TIMES = StageTimes(12.5, 3.25, 480.0, 1.5, 512.0)


def cases() -> list[Case]:
    """Every golden message, made by the encoder where there is one and by hand where a peer is at fault."""
    return [
        *_requests(),
        *_malformed(),
        *user_cases(),
        *segment_cases(ONE_HOT, USER_ONCE),
        *_replies(),
        *_bad_replies(),
    ]


def _requests() -> list[Case]:
    full = InferRequest((1 << 64) - 1, "dlrm", 20_000, TRACEPARENT, DENSE, IDS.astype("<i8"), None, None)
    multi_hot = InferRequest(2, "dlrm", None, None, DENSE, None, LENGTHS, VALUES)
    bulk = InferRequest(8, "", None, None, DENSE, IDS, None, None, Priority.BULK)
    keyed = InferRequest(12, "", None, None, DENSE, IDS, None, None, key="user-17")
    empty_bags = InferRequest(3, "", None, None, DENSE, None, np.zeros_like(LENGTHS), VALUES[:0].astype("<i4"))
    requests: dict[str, InferRequest | ControlRequest] = {
        "infer_ids_i4": ONE_HOT,
        "infer_ids_i8_every_field": full,
        "infer_bulk": bulk,
        "infer_keyed": keyed,
        "infer_bags_i8": multi_hot,
        "infer_bags_all_empty": empty_bags,
        "health": ControlRequest(4, Operation.HEALTH),
        "metadata": ControlRequest(5, Operation.METADATA),
        "reserved_admin": ControlRequest(7, Operation.ADMIN),
    }
    cancel = Case("cancel", "request", (encode_cancel(6),))
    return [cancel, *(Case(name, "request", tuple(encode_request(request))) for name, request in requests.items())]


def _header(fields: dict[str, Any], *, version: int = VERSION, operation: Operation = Operation.INFER) -> bytes:
    return MAGIC + bytes((version, operation)) + msgpack.packb(fields)


def _malformed() -> list[Case]:
    specs = [["dense", "f4", [2, 3]], ["ids", "i4", [2, 2]]]
    dense, ids = DENSE.tobytes(), IDS.tobytes()

    def bad(name: str, header: bytes, *tensors: bytes) -> Case:
        return Case(f"bad_{name}", "request", (header, *tensors))

    good = _header({"id": 9, "t": specs})
    return [
        bad("empty_header", b"", dense, ids),
        bad("magic", b"XX" + good[2:], dense, ids),
        bad("version", _header({"id": 9, "t": specs}, version=2), dense, ids),
        bad("msgpack", good[:20], dense, ids),
        bad("no_id", _header({"t": specs}), dense, ids),
        bad("deadline_zero", _header({"id": 9, "d": 0, "t": specs}), dense, ids),
        bad("priority_value", _header({"id": 9, "p": 2, "t": specs}), dense, ids),
        bad("priority_boolean", _header({"id": 9, "p": True, "t": specs}), dense, ids),
        bad("key_number", _header({"id": 9, "k": 17, "t": specs}), dense, ids),
        bad("key_long", _header({"id": 9, "k": "x" * 65, "t": specs}), dense, ids),
        bad("cancel_no_id", _header({}, operation=Operation.CANCEL)),
        bad("cancel_with_tensor", _header({"id": 9}, operation=Operation.CANCEL), ids),
        bad("tensor_missing", good, dense),
        bad("tensor_surplus", good, dense, ids, ids),
        bad("tensor_short", good, dense, ids[:-1]),
        bad("dtype", _header({"id": 9, "t": [specs[0], ["ids", "f4", [2, 2]]]}), dense, ids),
        bad("rows_disagree", _header({"id": 9, "t": [specs[0], ["ids", "i4", [1, 4]]]}), dense, ids),
        Case("priority_zero", "request", (_header({"id": 9, "p": 0, "t": specs}), dense, ids)),
        Case("unknown_key_is_ignored", "request", (_header({"id": 9, "t": specs, "later": True}), dense, ids)),
    ]


def _replies() -> list[Case]:
    scores = np.array([0.75, 0.125], "<f4")
    replies: dict[str, Sequence[Frame]] = {
        "scores": encode_scores(1, "v7", 4, 3, TIMES, None, scores),
        "scores_traced": encode_scores((1 << 64) - 1, "v7", 4, 3, TIMES, TRACEPARENT, scores),
        "health_ready": [encode_health(HealthReply(4, "v7", HealthState.READY, 3, 12.5))],
        "health_draining": [encode_health(HealthReply(4, "v7", HealthState.DRAINING, 1, 99.0))],
        "metadata": [encode_metadata(MetadataReply(5, "v7", {"name": "dlrm", "dense_width": 13, "rows": [4, 8]}))],
        "attached": [encode_attached(AttachReply(11, "v7", SEGMENT))],
        "scores_window": encode_scores(1, "v7", 4, 3, TIMES, None, scores, window=256),
        "scores_variant": encode_scores(1, "v7", 4, 3, TIMES, None, scores, variant="B"),
        "health_window": [encode_health(HealthReply(4, "v7", HealthState.READY, 3, 12.5, window=1))],
        "metadata_window": [encode_metadata(MetadataReply(5, "v7", {"window": 256}, window=256))],
        "attached_window": [encode_attached(AttachReply(11, "v7", SEGMENT, window=256))],
    }
    for status in Status:
        if status is not Status.OK:
            refusal = Refusal(status, f"refused as {status.name}")
            replies[f"refusal_{status.name.lower()}"] = [encode_refusal(9, "v7", refusal)]
    retry = Refusal(Status.OVERLOADED, "the queue is full", retry_after_us=2500)
    replies["refusal_with_retry"] = [encode_refusal(0, "v7", retry)]
    replies["refusal_window"] = [encode_refusal(9, "v7", retry, window=16)]
    eta = Refusal(Status.WOULD_MISS, "by measured costs", retry_after_us=900, predicted_us=5400)
    replies["refusal_with_retry_and_eta"] = [encode_refusal(9, "v7", eta)]
    return [Case(f"reply_{name}", "reply", tuple(frames)) for name, frames in replies.items()]


def _bad_replies() -> list[Case]:
    good = {"id": 4, "s": 0, "v": "v7", "seg": 1}
    refusal = {"id": 4, "s": 9, "v": "v7", "e": "no"}
    header, scores = encode_scores(1, "v7", 4, 3, TIMES, None, np.array([0.5], "<f4"))

    def bad(name: str, start: int, fields: dict[str, Any]) -> Case:
        return Case(f"bad_reply_{name}", "reply", (prelude(start | REPLY_BIT) + msgpack.packb(fields),))

    return [
        bad("window_zero", Operation.ATTACH, good | {"w": 0}),
        bad("window_boolean", Operation.ATTACH, good | {"w": True}),
        bad("window_nil", 0, refusal | {"w": None}),
        bad("attached_segment_absent", Operation.ATTACH, {"id": 4, "s": 0, "v": "v7"}),
        bad("attached_with_a_status", Operation.ATTACH, good | {"s": 9}),
        bad("refusal_without_a_status", 0, refusal | {"s": 0}),
        bad("operation", Operation.CANCEL, good),
        Case("bad_reply_variant_number", "reply", (_variant_2(), scores)),
        Case("bad_reply_scores_short", "reply", (header, scores[:-1])),
        Case("bad_reply_scores_absent", "reply", (header,)),
    ]


def _variant_2() -> bytes:
    fields = {"id": 1, "s": 0, "v": "v7", "b": 4, "f": 3, "us": TIMES, "variant": 2}
    return prelude(Operation.INFER | REPLY_BIT) + msgpack.packb(fields)


def write(folder: Path) -> None:
    """Every case into `folder`."""
    folder.mkdir(exist_ok=True)
    for case in cases():
        meaning = {"reader": case.reader, "frames": len(case.frames), "meaning": case.meaning()}
        if case.segment is not None:
            meaning["segment"] = case.segment.hex()
        (folder / f"{case.name}.json").write_text(json.dumps(meaning) + "\n")
        for index, frame in enumerate(case.frames):
            (folder / f"{case.name}.{index}.bin").write_bytes(frame)


if __name__ == "__main__":
    write(FRAMES)

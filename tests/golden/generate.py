"""The golden frames: every message and refusal of PROTOCOL.md, as bytes that each implementation must read and write.

`python -m tests.golden.generate` writes frames/: NAME.json says what NAME.0.bin, NAME.1.bin, ... mean.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from narsil_transport.header import MAGIC, VERSION
from narsil_transport.status import Refusal, Status
from narsil_transport.wire import (
    ControlRequest,
    Frame,
    HealthReply,
    HealthState,
    InferRequest,
    MetadataReply,
    Operation,
    Priority,
    Refused,
    StageTimes,
    decode_reply,
    decode_request,
    encode_cancel,
    encode_health,
    encode_metadata,
    encode_refusal,
    encode_request,
    encode_scores,
)

FRAMES = Path(__file__).parent / "frames"
DENSE = np.array([[0.5, -1.0, 2.0], [0.25, 0.0, -0.125]], "<f4")
IDS = np.array([[3, 0], [1, 7]], "<i4")
LENGTHS = np.array([[2, 0], [1, 1]], "<i4")
VALUES = np.array([5, 6, 7, 8], "<i8")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TIMES = StageTimes(12.5, 3.25, 480.0, 1.5, 512.0)


@dataclass(frozen=True, slots=True)
class Case:
    """One message: its name, who reads it ("request": the server, "reply": the client) and its frames."""

    name: str
    reader: str
    frames: tuple[Frame, ...]

    def meaning(self) -> Any:
        """What the reader makes of the frames, as JSON values."""
        if self.reader == "request":
            return described(decode_request(self.frames[0], self.frames[1:]))
        return described(decode_reply(self.frames))


def described(value: object) -> Any:
    """A message as JSON values: its type and fields, arrays with dtype, shape and flat values."""
    if isinstance(value, np.ndarray):
        flat = value.reshape(-1).tolist()
        return {"dtype": value.dtype.str[1:], "shape": list(value.shape), "values": flat}
    if isinstance(value, StageTimes):
        return value._asdict()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Refused):
        # The status is contract; the sentence is for a person and may change.
        return {"type": "Refused", "request_id": value.request_id, "status": value.refusal.status.name}
    if is_dataclass(value) and not isinstance(value, type):
        members = {field.name: described(getattr(value, field.name)) for field in fields(value)}
        return {"type": type(value).__name__, **members}
    return value


def cases() -> list[Case]:
    """Every golden message, made by the encoder where there is one and by hand where a peer is at fault."""
    return [*_requests(), *_malformed(), *_replies()]


def _requests() -> list[Case]:
    one_hot = InferRequest(1, "", None, None, DENSE, IDS, None, None)
    full = InferRequest((1 << 64) - 1, "dlrm", 20_000, TRACEPARENT, DENSE, IDS.astype("<i8"), None, None)
    multi_hot = InferRequest(2, "dlrm", None, None, DENSE, None, LENGTHS, VALUES)
    bulk = InferRequest(8, "", None, None, DENSE, IDS, None, None, Priority.BULK)
    empty_bags = InferRequest(3, "", None, None, DENSE, None, np.zeros_like(LENGTHS), VALUES[:0].astype("<i4"))
    requests: dict[str, InferRequest | ControlRequest] = {
        "infer_ids_i4": one_hot,
        "infer_ids_i8_every_field": full,
        "infer_bulk": bulk,
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
    }
    for status in Status:
        if status is not Status.OK:
            refusal = Refusal(status, f"refused as {status.name}")
            replies[f"refusal_{status.name.lower()}"] = [encode_refusal(9, "v7", refusal)]
    retry = Refusal(Status.OVERLOADED, "the queue is full", retry_after_us=2500)
    replies["refusal_with_retry"] = [encode_refusal(0, "v7", retry)]
    eta = Refusal(Status.WOULD_MISS, "by measured costs", retry_after_us=900, predicted_us=5400)
    replies["refusal_with_retry_and_eta"] = [encode_refusal(9, "v7", eta)]
    return [Case(f"reply_{name}", "reply", tuple(frames)) for name, frames in replies.items()]


def write(folder: Path) -> None:
    """Every case into `folder`."""
    folder.mkdir(exist_ok=True)
    for case in cases():
        meaning = {"reader": case.reader, "frames": len(case.frames), "meaning": case.meaning()}
        (folder / f"{case.name}.json").write_text(json.dumps(meaning) + "\n")
        for index, frame in enumerate(case.frames):
            (folder / f"{case.name}.{index}.bin").write_bytes(frame)


if __name__ == "__main__":
    write(FRAMES)

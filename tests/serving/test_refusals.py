"""Every wrong request is refused by type and alone: the good ones before and after it in the queue are served."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest

from narsil_graph.model.weights import Model
from narsil_transport.header import pack_header, prelude
from narsil_transport.status import Status
from narsil_transport.wire import InferRequest, Operation, RefusalReply, ScoresReply, encode_request
from tests.serving.peers import Peer, assert_right, multi_hot, one_hot
from tests.serving.processes import ServerProcess

BAD_ID = 77


def frames(model: Model, change: Callable[[list[bytes]], list[bytes]]) -> list[bytes]:
    return change(encode_request(replace(one_hot(model, 3), request_id=BAD_ID)))


def stated(model: Model, tensors: list[object], **fields: object) -> list[bytes]:
    """A good request's frames under a header that states these tensors."""
    _, dense, ids = encode_request(one_hot(model, 3))
    return [pack_header(prelude(Operation.INFER), {"id": BAD_ID, "t": tensors} | fields), dense, ids]


DENSE, IDS = ["dense", "f4", [3, 13]], ["ids", "i4", [3, 26]]

MALFORMED: dict[str, tuple[Callable[[Model], list[bytes]], Status, int]] = {
    "wrong magic": (lambda m: frames(m, lambda f: [b"XG" + f[0][2:], *f[1:]]), Status.INVALID, 0),
    "wrong version": (lambda m: frames(m, lambda f: [b"NG\x02" + f[0][3:], *f[1:]]), Status.UNSUPPORTED, 0),
    "reserved operation": (lambda m: [pack_header(prelude(5), {"id": BAD_ID})], Status.UNSUPPORTED, BAD_ID),
    "unknown operation": (lambda m: [pack_header(prelude(99), {"id": BAD_ID})], Status.UNSUPPORTED, BAD_ID),
    "a reply": (lambda m: [pack_header(prelude(0x81), {"id": BAD_ID})], Status.UNSUPPORTED, BAD_ID),
    "health with a tensor": (lambda m: [pack_header(prelude(2), {"id": BAD_ID}), b"1234"], Status.INVALID, BAD_ID),
    "header cut short": (lambda m: frames(m, lambda f: [f[0][:20], *f[1:]]), Status.INVALID, 0),
    "header of two bytes": (lambda m: [b"NG"], Status.INVALID, 0),
    "header that is no map": (lambda m: [prelude(1) + msgpack.packb([1, 2])], Status.INVALID, 0),
    "no id": (lambda m: [pack_header(prelude(1), {"t": [DENSE, IDS]}), b"", b""], Status.INVALID, 0),
    "negative id": (lambda m: [pack_header(prelude(2), {"id": -1})], Status.INVALID, 0),
    "id as text": (lambda m: [pack_header(prelude(2), {"id": "1"})], Status.INVALID, 0),
    "no tensors named": (lambda m: [pack_header(prelude(1), {"id": BAD_ID})], Status.INVALID, BAD_ID),
    "missing frame": (lambda m: frames(m, lambda f: f[:-1]), Status.INVALID, BAD_ID),
    "surplus frame": (lambda m: frames(m, lambda f: [*f, b""]), Status.INVALID, BAD_ID),
    "60 parts": (lambda m: frames(m, lambda f: [*f, *[b"x" * 100] * 57]), Status.INVALID, BAD_ID),
    "short frame": (lambda m: frames(m, lambda f: [f[0], f[1][:-1], f[2]]), Status.INVALID, BAD_ID),
    "long frame": (lambda m: frames(m, lambda f: [f[0], f[1], f[2] + b"\0\0\0\0"]), Status.INVALID, BAD_ID),
    "empty frames": (lambda m: frames(m, lambda f: [f[0], b"", b""]), Status.INVALID, BAD_ID),
    "dense as f8": (lambda m: stated(m, [["dense", "f8", [3, 13]], IDS]), Status.INVALID, BAD_ID),
    "dense as i4": (lambda m: stated(m, [["dense", "i4", [3, 13]], IDS]), Status.INVALID, BAD_ID),
    "ids as f4": (lambda m: stated(m, [DENSE, ["ids", "f4", [3, 26]]]), Status.INVALID, BAD_ID),
    "dense of one dimension": (lambda m: stated(m, [["dense", "f4", [39]], IDS]), Status.INVALID, BAD_ID),
    "dense of the wrong width": (lambda m: stated(m, [["dense", "f4", [39, 1]], IDS]), Status.INVALID, BAD_ID),
    "shape beyond its frame": (lambda m: stated(m, [["dense", "f4", [2**62, 13]], IDS]), Status.INVALID, BAD_ID),
    "negative shape": (lambda m: stated(m, [["dense", "f4", [-3, -13]], IDS]), Status.INVALID, BAD_ID),
    "fractional shape": (lambda m: stated(m, [["dense", "f4", [3.0, 13]], IDS]), Status.INVALID, BAD_ID),
    "tensors in another order": (lambda m: stated(m, [IDS, DENSE]), Status.INVALID, BAD_ID),
    "unknown tensor": (lambda m: stated(m, [DENSE, ["keys", "i4", [3, 26]]]), Status.INVALID, BAD_ID),
    "a budget of nothing": (lambda m: stated(m, [DENSE, IDS], d=0), Status.INVALID, BAD_ID),
    "a trace too long": (lambda m: stated(m, [DENSE, IDS], tp="x" * 65), Status.INVALID, BAD_ID),
    "no rows": (lambda m: encode_request(replace(one_hot(m, 0), request_id=BAD_ID)), Status.INVALID, BAD_ID),
    "1 MiB of garbage as header": (
        lambda m: [np.random.default_rng(0).bytes(1 << 20)],
        Status.INVALID,
        0,
    ),
    "1 MiB of garbage behind a prelude": (lambda m: [prelude(1) + b"\x93" * (1 << 20)], Status.INVALID, 0),
    "nested without end": (lambda m: [prelude(1) + b"\x91" * 4000], Status.INVALID, 0),
    "an empty message": (lambda m: [b""], Status.INVALID, 0),
    "empty frames only": (lambda m: [b"", b"", b""], Status.INVALID, 0),
}


def with_id(model: Model, row: int, feature: int, value: int, dtype: type = np.int32) -> InferRequest:
    request = one_hot(model, 3)
    assert request.ids is not None
    request = replace(request, ids=request.ids.astype(dtype))
    assert request.ids is not None
    request.ids[row, feature] = value
    return request


def with_dense(model: Model, row: int, column: int, value: float) -> InferRequest:
    request = one_hot(model, 5)
    request.dense[row, column] = value
    return request


def with_lengths(model: Model, rows: slice, length: int) -> InferRequest:
    request = multi_hot(model, 4)
    assert request.lengths is not None
    request.lengths[rows] = length
    return request


def with_value(model: Model, value: int) -> InferRequest:
    """One id a bag, except two for the first feature; the last id, of row 1, is wrong."""
    lengths = np.ones((2, 26), np.int32)
    lengths[0, 0] = 2
    values = np.zeros(53, np.int32)
    values[-1] = value
    return replace(multi_hot(model, 2), lengths=lengths, values=values)


def too_wide(model: Model) -> InferRequest:
    lengths = np.zeros((1, 26), np.int32)
    lengths[0, 0] = 64 * 4 * 26 + 1
    return replace(multi_hot(model, 1), lengths=lengths, values=np.zeros(lengths.sum(), np.int32))


WRONG: dict[str, tuple[Callable[[Model], InferRequest], Status, str]] = {
    "too many rows": (lambda m: one_hot(m, 4097), Status.TOO_LARGE, "want at most 4096 rows, got 4097"),
    "too many ids in a row": (too_wide, Status.TOO_LARGE, "row 0 has 6657 ids, at most 6656 fit a batch"),
    "id at its table's end": (
        lambda m: with_id(m, 2, 1, 1682),
        Status.OUT_OF_RANGE,
        "feature 'movie', row 2: id 1682 is not in [0, 1682)",
    ),
    "negative id": (
        lambda m: with_id(m, 0, 25, -1),
        Status.OUT_OF_RANGE,
        "feature 'genre_Western', row 0: id -1 is not in [0, 2)",
    ),
    "least int32 id": (lambda m: with_id(m, 0, 0, -(2**31)), Status.OUT_OF_RANGE, "id -2147483648 is"),
    "int64 id that int32 would cut to a good one": (
        lambda m: with_id(m, 1, 0, 2**32 + 1, np.int64),
        Status.OUT_OF_RANGE,
        "feature 'user', row 1: id 4294967297 is not in [0, 943)",
    ),
    "least int64 id": (lambda m: with_id(m, 1, 0, -(2**63), np.int64), Status.OUT_OF_RANGE, "id -92233720368547758"),
    "multi-hot id at its table's end": (
        lambda m: with_value(m, 2),
        Status.OUT_OF_RANGE,
        "feature 'genre_Western', row 1: id 2 is not in [0, 2)",
    ),
    "negative multi-hot id": (
        lambda m: with_value(m, -5),
        Status.OUT_OF_RANGE,
        "feature 'genre_Western', row 1: id -5 is not in [0, 2)",
    ),
    "lengths above the values": (lambda m: with_lengths(m, slice(1), 50), Status.INVALID, "lengths add up to"),
    "lengths below the values": (lambda m: with_lengths(m, slice(4), 0), Status.INVALID, "lengths add up to 0, "),
    "a negative length": (lambda m: with_lengths(m, slice(1), -1), Status.INVALID, "lengths want to be at least 0"),
    "lengths beyond int32 in sum": (
        lambda m: with_lengths(m, slice(4), 2**31 - 1),
        Status.INVALID,
        "lengths add up to 223338299288",
    ),
    "NaN": (lambda m: with_dense(m, 4, 2, np.nan), Status.NOT_FINITE, "dense row 4, column 2 is nan"),
    "infinity": (lambda m: with_dense(m, 0, 12, np.inf), Status.NOT_FINITE, "dense row 0, column 12 is inf"),
    "minus infinity": (lambda m: with_dense(m, 1, 0, -np.inf), Status.NOT_FINITE, "dense row 1, column 0 is -inf"),
    "another dense width": (
        lambda m: replace(one_hot(m, 3), dense=np.zeros((3, 12), np.float32)),
        Status.INVALID,
        "want dense [n, 13] and features [n, 26], got [3, 12] and [3, 26]",
    ),
    "another count of features": (
        lambda m: replace(one_hot(m, 3), ids=np.zeros((3, 27), np.int32)),
        Status.INVALID,
        "got [3, 13] and [3, 27]",
    ),
    "unknown model": (
        lambda m: replace(one_hot(m, 3), model="ctr"),
        Status.UNKNOWN_MODEL,
        "this server has model 'movielens', not 'ctr'",
    ),
    "impossible budget": (
        lambda m: replace(one_hot(m, 3), deadline_us=1),
        Status.WOULD_MISS,
        "the budget is 1 us",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_message_is_refused_and_its_neighbours_are_served(peer: Peer, model: Model, case: str) -> None:
    make, status, request_id = MALFORMED[case]
    good = one_hot(model, 4)
    peer.send(good)
    peer.send_frames(make(model))
    peer.send(good)
    replies = [peer.receive() for _ in range(3)]
    (refused,) = (reply for reply in replies if isinstance(reply, RefusalReply))
    assert (refused.refusal.status, refused.request_id) == (status, request_id), refused
    served = {reply.request_id: reply for reply in replies if isinstance(reply, ScoresReply)}
    assert set(served) == {1, 2}
    for reply in served.values():
        assert_right(reply.scores, model, good)
    assert peer.health().state.value == "ready"


@pytest.mark.parametrize("case", WRONG)
def test_wrong_request_is_refused_in_words_and_its_neighbours_are_served(peer: Peer, model: Model, case: str) -> None:
    make, status, words = WRONG[case]
    good = multi_hot(model, 4)
    before, bad, after = peer.send(good), peer.send(make(model)), peer.send(good)
    replies = {reply.request_id: reply for reply in (peer.receive() for _ in range(3))}
    refused = replies[bad]
    assert isinstance(refused, RefusalReply)
    assert refused.refusal.status is status
    assert words in refused.refusal.detail
    for number in (before, after):
        served = replies[number]
        assert isinstance(served, ScoresReply)
        assert_right(served.scores, model, good)
    assert peer.health().state.value == "ready"


def test_frame_above_the_limit_cuts_off_its_sender_only(server: ServerProcess, peer: Peer, model: Model) -> None:
    with Peer(server.endpoint) as greedy:
        greedy.send_frames([b"x" * (64 << 20)])
        assert_right(peer.scores(one_hot(model, 4)), model, one_hot(model, 4))
        # It is connected anew, and served like anyone once it keeps to the limit.
        assert_right(greedy.scores(one_hot(model, 4)), model, one_hot(model, 4))


def test_nonfinite_values_pass_where_they_are_allowed_and_stay_in_their_row(tmp_path: Path, model: Model) -> None:
    request = one_hot(model, 8)
    request.dense[3, 0], request.dense[5, 1] = np.nan, np.inf
    with ServerProcess(tmp_path, "--buckets", "8", "--allow-nonfinite") as server, Peer(server.endpoint) as peer:
        scores = peer.scores(request)
        clean = peer.scores(one_hot(model, 8))
    assert np.isnan(scores[3])
    others = [0, 1, 2, 4, 6, 7]
    assert scores[others].tobytes() == clean[others].tobytes()

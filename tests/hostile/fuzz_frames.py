"""Hostile messages into the decoders and the admission, and what must hold of each outcome.

A violated rule is an AssertionError, or whatever the decoder raised, with the frames in a note.
"""

from collections import Counter
from collections.abc import Sequence
from random import Random

import numpy as np

from narsil_transport.admission import Admitted, ModelLimits, admit
from narsil_transport.status import Refusal, Status
from narsil_transport.wire import (
    AttachRequest,
    CancelRequest,
    ControlRequest,
    InferRequest,
    RefusalReply,
    Refused,
    Span,
    WireError,
    decode_reply,
    decode_request,
    encode_refusal,
)
from tests.golden.generate import DENSE, IDS
from tests.hostile.mutation import Mutator, golden

# The model of the golden frames.
LIMITS = ModelLimits(
    name="dlrm",
    dense_width=DENSE.shape[1],
    table_rows=np.array([10] * IDS.shape[1], np.int64),
    feature_names=("a", "b"),
    rows_max=64,
    ids_per_row_max=32,
)


class Segment:
    """Shared memory that holds whatever it is asked for, random bytes, or refuses."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def fetch(self, span: Span) -> list[bytes] | Refusal:
        assert all(length >= 0 for length in span.lengths_bytes)
        assert sum(span.lengths_bytes) <= 1 << 26
        # What is too much for a fuzzer is refused by no rule of the decoder's.
        if sum(span.lengths_bytes) > 1 << 16 or self._random.random() < 0.1:
            return Refusal(Status.INVALID, "the segment is shorter")
        small = self._random.random() < 0.5
        return [bytes(length) if small else self._random.randbytes(length) for length in span.lengths_bytes]


def requests(cases: int, seed: int) -> Counter[str]:
    """Outcomes of so many hostile requests, by kind: the decoder's, and admission's where it decoded."""
    random = Random(seed)
    mutator, segment = Mutator(golden("request"), random), Segment(random)
    outcomes: Counter[str] = Counter()
    for _ in range(cases):
        frames = mutator.message()
        try:
            # As the router gives an empty message.
            header, *tensors = frames or [b""]
            outcomes[_request(header, tensors, segment if random.random() < 0.5 else None)] += 1
        except Exception as error:
            error.add_note(f"frames: {frames!r}")
            raise
    return outcomes


def _request(header: bytes, tensors: Sequence[bytes], segment: Segment | None) -> str:
    request = decode_request(header, tensors, None if segment is None else segment.fetch)
    assert type(request.request_id) is int and 0 <= request.request_id < 1 << 64
    if isinstance(request, Refused):
        check_refusal(request.request_id, request.refusal)
        return f"refused {request.refusal.status.name}"
    if isinstance(request, InferRequest):
        outcome = admit(request, limits=LIMITS, now_ns=0, route=None)
        if isinstance(outcome, Refusal):
            check_refusal(request.request_id, outcome)
            return f"decoded, then refused {outcome.status.name}"
        check_admitted(outcome)
        return "admitted"
    assert isinstance(request, ControlRequest | CancelRequest | AttachRequest)
    return type(request).__name__


def check_refusal(request_id: int, refusal: Refusal) -> None:
    """Every refusal can be sent and read."""
    reply = decode_reply([encode_refusal(request_id, "v", refusal)])
    assert isinstance(reply, RefusalReply)
    assert (reply.request_id, reply.refusal) == (request_id, refusal)
    assert len(refusal.detail) < 1000


def check_admitted(admitted: Admitted) -> None:
    """What may reach the engine, by rules of its own: an array that breaks them would be read out of bounds."""
    request, rows = admitted.request, admitted.rows
    shape = (rows, len(LIMITS.feature_names))
    assert 1 <= rows <= LIMITS.rows_max
    assert request.dense.shape == (rows, LIMITS.dense_width) and np.isfinite(request.dense).all()
    if request.ids is not None:
        assert request.ids.shape == shape
        assert (request.ids >= 0).all() and (request.ids < LIMITS.table_rows).all()
        assert admitted.ids == request.ids.size
        return
    assert request.lengths is not None and request.values is not None
    assert request.lengths.shape == shape and (request.lengths >= 0).all()
    assert request.lengths.sum(dtype=np.int64) == len(request.values) == admitted.ids
    assert request.lengths.sum(axis=1, dtype=np.int64).max() <= LIMITS.ids_per_row_max
    assert (request.values >= 0).all() and (request.values < LIMITS.table_rows[0]).all()


def replies(cases: int, seed: int) -> Counter[str]:
    """Outcomes of so many hostile replies, by kind."""
    mutator = Mutator(golden("reply"), Random(seed))
    outcomes: Counter[str] = Counter()
    for _ in range(cases):
        frames = mutator.message()
        try:
            reply = decode_reply(frames)
        except WireError:
            outcomes["WireError"] += 1
        except Exception as error:
            error.add_note(f"frames: {frames!r}")
            raise
        else:
            outcomes[type(reply).__name__] += 1
    return outcomes

"""Sends every case to a server and says what came back, and whether the server still serves afterwards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import zmq

from narsil_client.conformance.case import TRACEPARENT, Array, Case, ModelShape, Rows, counted, header, infer
from narsil_client.conformance.extensions import extensions
from narsil_client.conformance.malformed import malformed
from narsil_client.conformance.wellformed import wellformed
from narsil_client.curve import Curve, CurveKeys
from narsil_client.errors import ServerUnreachable
from narsil_transport.header import WireError
from narsil_transport.messages import AttachReply, HealthReply, MetadataReply, Operation, RefusalReply, ScoresReply
from narsil_transport.wire import decode_reply

# No case has this id.
PROBE_ID = 1 << 40
# What float32 arithmetic may differ by between batches of different sizes, on a score.
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Finding:
    """What a case wanted and got, in words."""

    name: str
    wanted: str
    got: str
    passed: bool


@dataclass(slots=True, eq=False)
class Answer:
    """A reply in a word (see case.Wanted), with what is wrong with it, if anything."""

    request_id: int
    word: str
    scores: Array | None = None
    faults: list[str] = field(default_factory=list)


def examine(endpoint: str, *, timeout_s: float, curve: Curve | None = None) -> Iterator[Finding]:
    """Each case's finding, as it is made. Raises ServerUnreachable where no METADATA comes within `timeout_s`.

    Raises NotExaminable where METADATA does not describe the model, ValueError where a key cannot be read.
    """
    keys = None if curve is None else curve.read()
    with zmq.Context() as context:
        examiner = Examiner(context, endpoint, round(timeout_s * 1000), keys)
        try:
            shape = examiner.shape()
            for case in chain(wellformed(shape), malformed(shape), extensions(shape)):
                yield examiner.finding(case)
        finally:
            examiner.good.close()


class Examiner:
    """A good client that asks before and after each case; each case has a connection of its own."""

    def __init__(self, context: zmq.SyncContext, endpoint: str, timeout_ms: int, keys: CurveKeys | None) -> None:
        self._context = context
        self._endpoint = endpoint
        self._timeout_ms = timeout_ms
        self._keys = keys
        self.good = self._connection()
        self._probe: tuple[bytes, ...] = ()
        self._expected: Array | None = None
        self._scores: dict[str, Array] = {}

    def shape(self) -> ModelShape:
        """What the server takes, by its METADATA."""
        self.good.send(header({"id": PROBE_ID}, operation=Operation.METADATA))
        frames = self._receive(self.good)
        try:
            reply = decode_reply(frames) if frames else None
        except WireError as error:
            raise ServerUnreachable(f"{self._endpoint} answers METADATA, but: {error}") from None
        if not isinstance(reply, MetadataReply):
            what = "nothing" if reply is None else type(reply).__name__
            raise ServerUnreachable(f"{what} came from {self._endpoint} in {self._timeout_ms / 1000} s for METADATA")
        shape = ModelShape.of(reply.meta)
        self._probe = infer(Rows.of(shape, 1).one_hot, id=PROBE_ID)
        return shape

    def finding(self, case: Case) -> Finding:
        """Send the case, judge what comes, then ask on its connection and on the good one."""
        peer = self._connection()
        try:
            for message in case.messages:
                peer.send_multipart(message)
            answers = [answer for _ in case.wanted if (answer := self._answer(peer, case)) is not None]
            words = [answer.word for answer in answers]
            faults = [fault for answer in answers for fault in answer.faults]
            ids = [answer.request_id for answer in answers]
            for answer in answers:
                outcomes = case.wanted.get(answer.request_id)
                if outcomes is None or ids.count(answer.request_id) > 1:
                    faults.append(f"id {answer.request_id}")
                elif answer.word not in outcomes:
                    faults.append("")
            if not case.cut:
                faults += self._surplus(peer)
        finally:
            peer.close()
        if len(answers) < len(case.wanted):
            faults.append(f"{len(case.wanted) - len(answers)} replies did not come")
        faults += self._still_right()
        got = "; ".join(dict.fromkeys(part for part in (counted(words), *faults) if part))
        return Finding(case.name, case.wish, got, not faults)

    def _answer(self, peer: zmq.SyncSocket, case: Case) -> Answer | None:
        frames = self._receive(peer)
        if frames is None:
            return None
        delimited = not frames[0]
        answer = read(frames[1:] if delimited else frames)
        # One empty frame alone may be taken for a delimiter or for a header.
        if delimited != case.delimited and case.messages != ((b"",),):
            answer.faults.append("with a delimiter" if delimited else "without its delimiter")
        if answer.scores is None:
            return answer
        if case.traced != answer.word.endswith(" traced"):
            answer.faults.append("no traceparent" if case.traced else "a traceparent")
        answer.word = answer.word.removesuffix(" traced")
        self._scores[case.name] = answer.scores
        like = self._scores.get(case.like)
        if like is not None and not same(answer.scores, like):
            answer.faults.append(f"other scores than {case.like}")
        return answer

    def _surplus(self, peer: zmq.SyncSocket) -> list[str]:
        """Replies keep their order, so whatever comes before this HEALTH reply was not asked for."""
        peer.send(header({"id": PROBE_ID}, operation=Operation.HEALTH))
        answer = self._read(peer)
        if answer is None:
            return ["then it was not served"]
        if answer.word == "health" and answer.request_id == PROBE_ID:
            return []
        return [f"then {answer.word} under id {answer.request_id}"]

    def _still_right(self) -> list[str]:
        """What is wrong with what a good client gets now; the first scores are those that all others must be."""
        self.good.send_multipart(self._probe)
        answer = self._read(self.good)
        if answer is None:
            return ["then a good client got nothing"]
        if answer.scores is None or answer.request_id != PROBE_ID:
            return [f"then a good client got {answer.word} under id {answer.request_id}"]
        if self._expected is None:
            self._expected = answer.scores
        return [] if same(answer.scores, self._expected) else ["then a good client got other scores"]

    def _read(self, socket: zmq.SyncSocket) -> Answer | None:
        frames = self._receive(socket)
        return None if frames is None else read(frames)

    def _receive(self, socket: zmq.SyncSocket) -> list[bytes] | None:
        return socket.recv_multipart() if socket.poll(self._timeout_ms) else None

    def _connection(self) -> zmq.SyncSocket:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        if self._keys is not None:
            self._keys.apply(socket)
        try:
            socket.connect(self._endpoint)
        except zmq.ZMQError as error:
            socket.close()
            reason = zmq.strerror(error.errno or 0)
            raise ServerUnreachable(f"cannot connect to {self._endpoint!r}: {reason}") from None
        return socket


def read(frames: Sequence[bytes]) -> Answer:
    """The reply in these frames; bytes that are no reply are an Answer with a fault."""
    try:
        reply = decode_reply(frames)
    except WireError as error:
        return Answer(-1, "no reply", faults=[str(error)])
    match reply:
        case ScoresReply():
            faults: list[str] = []
            traced = " traced" if reply.traceparent == TRACEPARENT else ""
            if not 1 <= reply.rows_filled <= reply.bucket_rows:
                faults.append(f"{reply.rows_filled} rows in a bucket of {reply.bucket_rows}")
            if min(reply.times) < 0:
                faults.append("negative times")
            return Answer(reply.request_id, f"scores[{len(reply.scores)}]{traced}", reply.scores, faults)
        case RefusalReply():
            faults = [] if reply.refusal.detail else ["no sentence"]
            return Answer(reply.request_id, reply.refusal.status.name, faults=faults)
        case HealthReply():
            return Answer(reply.request_id, "health")
        case MetadataReply():
            return Answer(reply.request_id, "metadata")
        case AttachReply():
            return Answer(reply.request_id, "attached")


def same(scores: Array, others: Array) -> bool:
    return scores.shape == others.shape and bool(np.allclose(scores, others, rtol=0, atol=TOLERANCE, equal_nan=True))

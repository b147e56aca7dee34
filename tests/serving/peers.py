"""What talks to a server in these tests: a bare DEALER, so that nothing stands between a test and the wire."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import zmq

from narsil_graph.engine.exact import exact_scores
from narsil_graph.engine.synthetic import multi_hot_request, one_hot_request
from narsil_graph.model.weights import Model
from narsil_transport.status import Refusal
from narsil_transport.wire import (
    AttachReply,
    ControlRequest,
    HealthReply,
    InferRequest,
    MetadataReply,
    Operation,
    RefusalReply,
    ScoresReply,
    decode_reply,
    encode_request,
)

Reply = ScoresReply | RefusalReply | HealthReply | MetadataReply
REPLY_TIMEOUT_MS = 20_000
# What float32 arithmetic may differ by from float64, on a score.
TOLERANCE = 1e-6


class Peer:
    """A client connection, and the numbers of the requests it has sent."""

    def __init__(self, endpoint: str, *, context: zmq.SyncContext | None = None) -> None:
        self._shared = context is not None
        self._context = context or zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.rcvtimeo = REPLY_TIMEOUT_MS
        self.socket.sndtimeo = REPLY_TIMEOUT_MS
        self.socket.linger = 0
        self.socket.connect(endpoint)
        self._sent = 0

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()
        if not self._shared:
            self._context.term()

    def send(self, request: InferRequest) -> int:
        """Send it under a number of its own, which is returned."""
        self._sent += 1
        self.send_frames(encode_request(replace(request, request_id=self._sent)))
        return self._sent

    def send_frames(self, frames: Sequence[bytes]) -> None:
        self.socket.send_multipart(frames)

    def receive(self) -> Reply:
        frames = self.socket.recv_multipart()
        # The server gives back the delimiter of a message that began with an empty frame.
        reply = decode_reply(frames[1:] if not frames[0] else frames)
        assert not isinstance(reply, AttachReply), "this peer attaches nothing"
        return reply

    def ask(self, request: InferRequest) -> Reply:
        number = self.send(request)
        reply = self.receive()
        assert reply.request_id == number
        return reply

    def scores(self, request: InferRequest) -> npt.NDArray[np.float32]:
        reply = self.ask(request)
        assert isinstance(reply, ScoresReply), reply
        return reply.scores

    def refusal(self, request: InferRequest) -> Refusal:
        reply = self.ask(request)
        assert isinstance(reply, RefusalReply), reply
        return reply.refusal

    def health(self) -> HealthReply:
        """Also the proof that nothing else was on its way: replies to one peer keep their order."""
        self.send_frames(encode_request(ControlRequest(999, Operation.HEALTH)))
        reply = self.receive()
        assert isinstance(reply, HealthReply), reply
        return reply

    def metadata(self) -> MetadataReply:
        self.send_frames(encode_request(ControlRequest(998, Operation.METADATA)))
        reply = self.receive()
        assert isinstance(reply, MetadataReply), reply
        return reply


def one_hot(model: Model, rows: int, seed: int = 0) -> InferRequest:
    return one_hot_request(model.spec, rows, np.random.default_rng((rows, seed)))


def multi_hot(model: Model, rows: int, seed: int = 0) -> InferRequest:
    return multi_hot_request(model.spec, rows, 3, np.random.default_rng((rows, seed)))


def assert_right(scores: npt.NDArray[np.float32], model: Model, request: InferRequest) -> None:
    np.testing.assert_allclose(scores, exact_scores(model, request), rtol=0, atol=TOLERANCE)

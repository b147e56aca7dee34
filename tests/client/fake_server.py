"""A ROUTER in a thread that answers by a function, and replies to make such functions of."""

from collections.abc import Callable, Sequence
from threading import Thread
from types import TracebackType
from typing import Self

import numpy as np
import zmq

from narsil_client import HealthReply, HealthState, MetadataReply, StageTimes, Status
from narsil_transport.messages import ControlRequest, InferRequest, Operation, Refused
from narsil_transport.status import Refusal
from narsil_transport.wire import decode_request, encode_health, encode_metadata, encode_refusal, encode_scores

Request = InferRequest | ControlRequest
Answer = Callable[[Request], list[Sequence[bytes]]]

DENSE = [[0.5, 1.5], [2.0, -1.0]]
IDS = [[3, 1, 2], [0, 5, 4]]
TIMES = StageTimes(1.0, 2.0, 3.0, 4.0, 10.0)


def scored(request: Request) -> list[Sequence[bytes]]:
    """Each row's score is the sum of its dense values."""
    assert isinstance(request, InferRequest)
    scores = request.dense.sum(axis=1, dtype=np.float32)
    return [encode_scores(request.request_id, "v7", 8, request.rows, TIMES, request.traceparent, scores)]


def silent(request: Request) -> list[Sequence[bytes]]:
    """No answer."""
    return []


def refusing(refusal: Refusal) -> Answer:
    """The same refusal for every request."""
    return lambda request: [[encode_refusal(request.request_id, "v7", refusal)]]


def overloaded(request: Request) -> list[Sequence[bytes]]:
    """An OVERLOADED that says when to come back."""
    return refusing(Refusal(Status.OVERLOADED, "the queue is full", 1500))(request)


def controls(request: Request) -> list[Sequence[bytes]]:
    """Health and metadata."""
    assert isinstance(request, ControlRequest)
    if request.operation == Operation.HEALTH:
        return [[encode_health(HealthReply(request.request_id, "v7", HealthState.READY, 3, 1.5))]]
    return [[encode_metadata(MetadataReply(request.request_id, "v7", {"dense_width": 2}))]]


class Reversed:
    """Gathers `count` requests, then answers them last first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: list[Request] = []

    def __call__(self, request: Request) -> list[Sequence[bytes]]:
        self._held.append(request)
        if len(self._held) < self._count:
            return []
        return [frames for held in reversed(self._held) for frames in scored(held)]


class FakeServer:
    """Serves for a `with` block. `seen` are the requests so far, in order."""

    def __init__(self, answer: Answer, bind: str = "tcp://127.0.0.1:*") -> None:
        self._answer = answer
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.bind(bind)
        self._thread = Thread(target=self._run)
        self.endpoint = self._router.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self.seen: list[Request] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Wakes the thread's recv with ContextTerminated, and returns once the thread has closed the socket.
        self._context.term()
        self._thread.join()

    def _run(self) -> None:
        with self._router as router:
            try:
                while True:
                    identity, header, *tensors = router.recv_multipart()
                    request = decode_request(header, tensors)
                    assert not isinstance(request, Refused), request
                    self.seen.append(request)
                    for frames in self._answer(request):
                        router.send_multipart([identity, *frames])
            except zmq.ContextTerminated:
                pass

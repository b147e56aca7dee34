"""A ROUTER in a thread that answers by a function, and replies to make such functions of."""

from collections.abc import Callable, Sequence
from threading import Thread
from types import TracebackType
from typing import Self

import numpy as np
import zmq

from narsil_client import HealthReply, HealthState, MetadataReply, StageTimes, Status
from narsil_transport.messages import CancelRequest, ControlRequest, InferRequest, Operation, Refused
from narsil_transport.status import Refusal
from narsil_transport.wire import decode_request, encode_health, encode_metadata, encode_refusal, encode_scores

Replies = list[Sequence[bytes]]
Answer = Callable[[InferRequest], Replies]

DENSE = [[0.5, 1.5], [2.0, -1.0]]
IDS = [[3, 1, 2], [0, 5, 4]]
TIMES = StageTimes(1.0, 2.0, 3.0, 4.0, 10.0)


def scored(request: InferRequest) -> Replies:
    """Each row's score is the sum of its dense values."""
    scores = request.dense.sum(axis=1, dtype=np.float32)
    return [encode_scores(request.request_id, "v7", 8, request.rows, TIMES, request.traceparent, scores)]


def silent(request: InferRequest) -> Replies:
    """No answer."""
    return []


def overloaded(request: InferRequest) -> Replies:
    """A refusal that says when to come back."""
    return [[encode_refusal(request.request_id, "v7", Refusal(Status.OVERLOADED, "the queue is full", 1500))]]


class Reversed:
    """Gathers `count` requests, then answers them last first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: list[InferRequest] = []

    def __call__(self, request: InferRequest) -> Replies:
        self._held.append(request)
        if len(self._held) < self._count:
            return []
        return [frames for held in reversed(self._held) for frames in scored(held)]


class FakeServer:
    """Serves for a `with` block: INFER by `answer`, the rest itself.

    `seen` are the INFER requests so far, in order, and `cancelled` the ids of the CANCELs.
    """

    def __init__(self, answer: Answer, bind: str = "tcp://127.0.0.1:*") -> None:
        self._answer = answer
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.bind(bind)
        self._thread = Thread(target=self._run)
        self.endpoint = self._router.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self.seen: list[InferRequest] = []
        self.cancelled: list[int] = []
        self._waiting: set[int] = set()

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
                    for frames in self._replies(request):
                        router.send_multipart([identity, *frames])
            except zmq.ContextTerminated:
                pass

    def _replies(self, request: InferRequest | ControlRequest | CancelRequest) -> Replies:
        if isinstance(request, ControlRequest):
            return _control(request)
        if isinstance(request, CancelRequest):
            return self._cancel(request.request_id)
        self.seen.append(request)
        replies = self._answer(request)
        if not replies:
            self._waiting.add(request.request_id)
        return replies

    def _cancel(self, request_id: int) -> Replies:
        self.cancelled.append(request_id)
        if request_id not in self._waiting:
            return []
        self._waiting.remove(request_id)
        return [[encode_refusal(request_id, "v7", Refusal(Status.CANCELLED, "cancelled"))]]


def _control(request: ControlRequest) -> Replies:
    if request.operation == Operation.HEALTH:
        return [[encode_health(HealthReply(request.request_id, "v7", HealthState.READY, 3, 1.5))]]
    return [[encode_metadata(MetadataReply(request.request_id, "v7", {"dense_width": 2}))]]

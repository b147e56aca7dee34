"""A ROUTER in a thread that answers by a function, and replies to make such functions of."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread
from types import TracebackType
from typing import Self

import numpy as np
import zmq

from narsil_client import HealthReply, HealthState, MetadataReply, StageTimes, Status
from narsil_transport.curve import CurveServer
from narsil_transport.messages import AttachRequest, CancelRequest, ControlRequest, InferRequest, Operation, Refused
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


def grants_two(request: InferRequest) -> Replies:
    """To the first request, scores and a window of 2; to the others no answer."""
    if request.request_id > 1:
        return []
    scores = request.dense.sum(axis=1, dtype=np.float32)
    return [encode_scores(request.request_id, "v7", 8, request.rows, TIMES, None, scores, 2)]


def draining(request: InferRequest) -> Replies:
    """A refusal that another server may make good."""
    return [[encode_refusal(request.request_id, "v7", Refusal(Status.DRAINING, "it is stopping"))]]


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

    `seen` are the INFER requests so far, in order, `cancelled` the ids of the CANCELs and `asked` how many HEALTH and
    METADATA there were. It lets in those that `security` does, if there is any, and cuts off who sends more than
    `frame_bytes_max` in a frame.
    """

    def __init__(
        self,
        answer: Answer,
        bind: str = "tcp://127.0.0.1:*",
        *,
        security: CurveServer | None = None,
        frame_bytes_max: int = -1,
    ) -> None:
        self._answer = answer
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.maxmsgsize = frame_bytes_max
        self._security = security
        if security is not None:
            security.apply(self._router, self._context)
        self._router.bind(bind)
        self._thread = Thread(target=self._run)
        self.endpoint = self._router.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self.seen: list[InferRequest] = []
        self.cancelled: list[int] = []
        self.asked = 0
        self._waiting: set[int] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.vanish()

    def vanish(self) -> None:
        """Close every connection, whatever waits for an answer. A second time does nothing."""
        # Wakes the thread's poll with ContextTerminated, and returns once the thread has closed the sockets.
        self._context.term()
        self._thread.join()

    def _run(self) -> None:
        with self._router as router, suppress(zmq.ContextTerminated):
            poller = zmq.Poller()
            poller.register(router, zmq.POLLIN)
            if self._security is not None:
                poller.register(self._security.zap_socket, zmq.POLLIN)
            while True:
                for socket, _ in poller.poll():
                    if socket is router:
                        self._serve(router)
                    elif self._security is not None:
                        self._security.handle()
        if self._security is not None:
            self._security.close()

    def _serve(self, router: zmq.SyncSocket) -> None:
        identity, header, *tensors = router.recv_multipart()
        request = decode_request(header, tensors)
        assert not isinstance(request, Refused | AttachRequest), request
        for frames in self._replies(request):
            router.send_multipart([identity, *frames])

    def _replies(self, request: InferRequest | ControlRequest | CancelRequest) -> Replies:
        if isinstance(request, ControlRequest):
            self.asked += 1
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

"""A ROUTER that decodes each request and answers zeros at once: what a payload costs on its way, without a forward.

python benchmarks/peers/decode_echo.py ENDPOINT
"""

import sys
from functools import partial

import numpy as np

from narsil_transport.messages import (
    AttachReply,
    AttachRequest,
    ControlRequest,
    InferRequest,
    MetadataReply,
    StageTimes,
)
from narsil_transport.router import Message, Router
from narsil_transport.segments import Segments
from narsil_transport.status import Refusal
from narsil_transport.wire import decode_request, encode_attached, encode_metadata, encode_scores

BYTES_MAX = 1 << 26
NO_TIMES = StageTimes(0.0, 0.0, 0.0, 0.0, 0.0)


def main() -> None:
    segments = Segments(BYTES_MAX)
    with Router(bind=sys.argv[1], frames_bytes_max=BYTES_MAX, receive_max=1024) as router:
        print(f"ready {router.endpoint}", flush=True)
        while True:
            if router.wait(1000):
                for message in router.receive():
                    router.send(message.route, answer(segments, message))


def answer(segments: Segments, message: Message) -> tuple[bytes, ...]:
    identity = message.route.identity
    request = decode_request(message.header, message.tensors, partial(segments.fetch, identity))
    if isinstance(request, InferRequest):
        rows = request.rows
        scores = np.zeros(rows, np.float32)
        return tuple(encode_scores(request.request_id, "echo", rows, rows, NO_TIMES, None, scores))
    if isinstance(request, AttachRequest):
        number = segments.attach(identity, request)
        assert not isinstance(number, Refusal), number
        return (encode_attached(AttachReply(request.request_id, "echo", number)),)
    assert isinstance(request, ControlRequest), request
    return (encode_metadata(MetadataReply(request.request_id, "echo", {"shm": True})),)


if __name__ == "__main__":
    main()

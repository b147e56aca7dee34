"""Eager PyTorch + FBGEMM behind a grpcio server with a pool of threads, each request a forward.

python -m benchmarks.peers.grpc_eager_server MODEL
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from benchmarks.peers.grpc_subject import METHOD, OPTIONS, SERVICE
from benchmarks.peers.reference_eager import ReferenceEager
from benchmarks.peers.wire import decode_request, encode_reply


def main() -> None:
    model = ReferenceEager(Path(sys.argv[1]))

    def score(body: bytes, context: grpc.ServicerContext) -> bytes:
        return encode_reply(model(*decode_request(body, model.dense_width, model.features)))

    # More threads than cores only take turns.
    server = grpc.server(ThreadPoolExecutor(len(os.sched_getaffinity(0))), options=OPTIONS)
    # Bytes are passed as they are: cheaper than any message type.
    handlers = {METHOD: grpc.unary_unary_rpc_method_handler(score)}
    server.add_registered_method_handlers(SERVICE, handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"ready 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()

"""A bare ROUTER with the server's own forward in it: no message is decoded, each is answered with a launch's scores.

python benchmarks/peers/forward_echo.py ENDPOINT MODEL ROWS
"""

import sys
from pathlib import Path

import numpy as np
import torch
import zmq

from narsil_graph.engine import fbgemm
from narsil_graph.engine.cpu_plan import CpuPlan
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.synthetic import one_hot_request
from narsil_graph.model.weights import load_model
from narsil_transport.buckets import BucketLadder

HEADER_BYTES = 82
# Different rows, so that a lookup's are not in the cache already.
REQUESTS = 64


def main() -> None:
    endpoint, path, rows = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    fbgemm.load_library()
    torch.set_num_threads(1)
    model = load_model(path)
    engine = Engine(CpuPlan(model), BucketLadder.from_rows([rows], ids_per_row=len(model.spec.sparse_features)))
    engine.capture_all(lambda bucket, captured: None)
    (bucket,) = engine.ladder.buckets
    rng = np.random.default_rng(0)
    requests = [one_hot_request(model.spec, rows, rng) for _ in range(REQUESTS)]
    router = zmq.Context().socket(zmq.ROUTER)
    router.bind(endpoint)
    print(f"ready {endpoint}", flush=True)
    turn = 0
    while True:
        identity = router.recv_multipart()[0]
        turn += 1
        launched = engine.run(bucket, [(requests[turn % REQUESTS], 0, rows)])
        header = launched.launch_ns.to_bytes(8, "little") + bytes(HEADER_BYTES - 8)
        router.send_multipart([identity, header, launched.scores.tobytes()])


if __name__ == "__main__":
    main()

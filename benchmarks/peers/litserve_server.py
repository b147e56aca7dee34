"""Eager PyTorch + FBGEMM behind LitServe, which gathers requests into batches.

python -m benchmarks.peers.litserve_server MODEL PORT
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import litserve
from fastapi import Body, Response

from benchmarks.peers.batched import announce, score_bodies
from benchmarks.peers.reference_eager import ReferenceEager

REQUESTS_MAX = 4
# Without a wait its workers ask for requests without a pause, and take the cores from everybody else.
WAIT_S = 0.001
# A process per core, each with one thread of torch: faster than one process on two cores.
WORKERS = len(os.sched_getaffinity(0))


class Scorer(litserve.LitAPI):  # type: ignore[misc]
    """Takes and gives wire.py's bytes as they are."""

    def setup(self, device: str) -> None:
        self._model = ReferenceEager(Path(sys.argv[1]))

    # The annotation is what makes LitServe pass the body on unparsed.
    def decode_request(self, request: Annotated[bytes, Body()]) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, x: list[bytes]) -> list[bytes]:
        return score_bodies(self._model, x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="application/octet-stream")


def main() -> None:
    port = int(sys.argv[2])
    server = litserve.LitServer(
        Scorer(max_batch_size=REQUESTS_MAX, batch_timeout=WAIT_S),
        accelerator="cpu",
        workers_per_device=WORKERS,
        # ZeroMQ between its processes, instead of a queue in another process.
        fast_queue=True,
    )
    announce(f"http://127.0.0.1:{port}/health", f"http://127.0.0.1:{port}/predict")
    server.run(
        host="127.0.0.1",
        port=port,
        # Each serves HTTP in Python on one core: with one the workers waited for it.
        num_api_servers=WORKERS,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()

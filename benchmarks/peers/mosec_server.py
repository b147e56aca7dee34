"""Eager PyTorch + FBGEMM behind mosec, which gathers requests into batches where REQUESTS_MAX is above 1.

MODEL=FILE REQUESTS_MAX=1 python -m benchmarks.peers.mosec_server --address 127.0.0.1 --port PORT
"""

import os
from pathlib import Path
from typing import Any

import mosec
from mosec.args import parse_arguments

from benchmarks.peers.batched import RowForward, announce, score_bodies
from benchmarks.peers.reference_eager import ReferenceEager

# A batch that is not full waits for the whole time: the least there is, for 0 is mosec's default, 10 ms.
WAIT_MS = 1
# A process per core, each with one thread of torch: faster than one process on two cores.
WORKERS = len(os.sched_getaffinity(0))


class Scorer(mosec.Worker):  # type: ignore[misc]
    """Takes and gives wire.py's bytes as they are."""

    def __init__(self) -> None:
        super().__init__()
        self._forward = self.load(Path(os.environ["MODEL"]))

    def load(self, model: Path) -> RowForward:
        return ReferenceEager(model)

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data

    # mosec gives and takes a list only where a batch may have several requests.
    def forward(self, data: Any) -> Any:
        return score_bodies(self._forward, data) if isinstance(data, list) else score_bodies(self._forward, [data])[0]


def serve(scorer: Any) -> None:
    """Until a signal, on the address and the port of the command line."""
    options = parse_arguments()
    url = f"http://{options.address}:{options.port}"
    announce(f"{url}/", f"{url}/inference")
    server = mosec.Server()
    requests_max = int(os.environ["REQUESTS_MAX"])
    server.append_worker(scorer, num=WORKERS, max_batch_size=requests_max, max_wait_time=WAIT_MS)
    server.run()


if __name__ == "__main__":
    serve(Scorer)

"""Eager PyTorch + FBGEMM behind Ray Serve, which gathers requests into batches.

python -m benchmarks.peers.ray_server MODEL PORT
"""

import os
import sys
from pathlib import Path
from signal import SIGTERM, signal
from threading import Event

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peers.batched import announce, score_bodies
from benchmarks.peers.reference_eager import ReferenceEager

# 4 and 8 were no faster.
REQUESTS_MAX = 2
# Takes what is there.
WAIT_S = 0.0
# A process per core, each with one thread of torch. On two cores one and two were within the noise.
WORKERS = len(os.sched_getaffinity(0))


class Scorer:
    """Takes and gives wire.py's bytes as they are."""

    def __init__(self, model: str) -> None:
        self._model = ReferenceEager(Path(model))

    async def __call__(self, request: Request) -> Response:
        return Response(await self._score(await request.body()), media_type="application/octet-stream")

    @serve.batch(max_batch_size=REQUESTS_MAX, batch_wait_timeout_s=WAIT_S)  # type: ignore[untyped-decorator]
    async def _score(self, bodies: list[bytes]) -> list[bytes]:
        return score_bodies(self._model, bodies)


def main() -> None:
    model, port = sys.argv[1], int(sys.argv[2])
    ray.init("local", include_dashboard=False, log_to_driver=False, num_cpus=WORKERS)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    scorer = serve.deployment(Scorer).options(
        num_replicas=WORKERS,
        max_ongoing_requests=1024,
        ray_actor_options={"num_cpus": 1},
        logging_config=LoggingConfig(enable_access_log=False),
    )
    serve.run(scorer.bind(model), route_prefix="/")
    stopped = Event()
    signal(SIGTERM, lambda number, frame: stopped.set())
    announce(f"http://127.0.0.1:{port}/-/healthz", f"http://127.0.0.1:{port}/")
    stopped.wait()
    ray.shutdown()


if __name__ == "__main__":
    main()

"""What every peer that gathers requests into batches runs on one: its requests' bytes to their replies' bytes."""

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np

from benchmarks.peers.wire import Floats, Int32s, decode_request, encode_reply

LOOK_EVERY_S = 0.05


class RowForward(Protocol):
    """Scores f4 [n] of dense f4 [n, dense_width] and ids i4 [n, features]."""

    dense_width: int
    features: int

    def __call__(self, dense: Floats, ids: Int32s) -> Floats: ...


def score_bodies(forward: RowForward, bodies: Sequence[bytes]) -> list[bytes]:
    """The requests as one forward of all their rows; replies in the requests' order."""
    requests = [decode_request(body, forward.dense_width, forward.features) for body in bodies]
    if len(requests) == 1:
        return [encode_reply(forward(*requests[0]))]
    scores = forward(np.concatenate([dense for dense, _ in requests]), np.concatenate([ids for _, ids in requests]))
    ends = list(accumulate(len(dense) for dense, _ in requests))
    return [encode_reply(part) for part in np.split(scores, ends[:-1])]


def announce(ready_url: str, address: str) -> None:
    """Say "ready ADDRESS" on standard output as soon as a GET of ``ready_url`` succeeds, from a thread of its own."""
    threading.Thread(target=_announce, args=(ready_url, address), daemon=True).start()


def _announce(ready_url: str, address: str) -> None:
    while True:
        try:
            with urllib.request.urlopen(ready_url, timeout=1):
                break
        except (urllib.error.URLError, OSError):
            time.sleep(LOOK_EVERY_S)
    print(f"ready {address}", flush=True)

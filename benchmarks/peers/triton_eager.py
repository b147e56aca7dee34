"""Peer: eager PyTorch + FBGEMM in NVIDIA Triton, batching. Settings: benchmarks/peers/triton_server.py."""

import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.peers.http_subject import HttpSubject
from benchmarks.peers.process import running
from benchmarks.peers.wire import Floats
from benchmarks.processes import free_ports
from narsil_graph.bench.subject import Rows, Started

# Spaces fill the JSON up to a length that can be said once for every request of a connection.
HEADER_BYTES = 320
HEADERS = (f"Inference-Header-Content-Length: {HEADER_BYTES}",)
BINARY_BYTES = re.compile(rb'"binary_data_size":(\d+)')


@contextmanager
def start(model: Path) -> Generator[Started]:
    """A server of ``model``. UsageFailure where the peer is not installed, or did not start."""
    server = "bin/python", "-m", "benchmarks.peers.triton_server", free_ports(1)
    with running("triton", *server, MODEL=str(model.resolve())) as peer:
        connect = partial(HttpSubject, peer.address, encode=encode_infer, decode=decode_infer, headers=HEADERS)
        yield Started(connect, peer.pids)


def encode_infer(rows: Rows) -> bytes:
    """An inference request of Triton's HTTP protocol with its binary extension: no number is written as text."""
    inputs = [
        {
            "name": name,
            "shape": values.shape,
            "datatype": datatype,
            "parameters": {"binary_data_size": values.nbytes},
        }
        for name, datatype, values in (("DENSE", "FP32", rows.dense), ("IDS", "INT32", rows.ids))
    ]
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}, separators=(",", ":"))
    return b"".join((header.encode().ljust(HEADER_BYTES), rows.dense.tobytes(), rows.ids.tobytes()))


def decode_infer(body: bytes) -> Floats:
    """Scores f4 [n]: the last bytes of a reply with one binary output."""
    size = BINARY_BYTES.search(body)
    if size is None:
        raise ValueError(f"no binary output in {body[:200]!r}")
    return np.frombuffer(body[len(body) - int(size[1]) :], np.float32)

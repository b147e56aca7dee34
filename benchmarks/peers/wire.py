"""A request and its reply as bytes: what every foreign server is asked with, as a gRPC message or as an HTTP body.

A request is u32 rows, then dense f4 [rows, D], then ids i4 [rows, F]; a reply is scores f4 [rows]. Little-endian. A
server knows D and F from its model. Nothing is checked but the length: no peer pays for what our door does.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Int32s = NDArray[np.int32]

HEADER_BYTES = 4


def encode_request(dense: Floats, ids: Int32s) -> bytes:
    """Of dense f4 [n, D] and ids i4 [n, F]."""
    return b"".join((len(dense).to_bytes(HEADER_BYTES, "little"), dense.tobytes(), ids.tobytes()))


def decode_request(body: bytes, dense_width: int, features: int) -> tuple[Floats, Int32s]:
    """Read-only views f4 [n, D] and i4 [n, F] into ``body``. ValueError if it is shorter or longer than it says."""
    rows = int.from_bytes(body[:HEADER_BYTES], "little")
    middle = HEADER_BYTES + rows * dense_width * 4
    if len(body) != middle + rows * features * 4:
        raise ValueError(f"{len(body)} bytes are not {rows} rows of {dense_width} dense values and {features} ids")
    dense = np.frombuffer(body, np.float32, rows * dense_width, HEADER_BYTES)
    ids = np.frombuffer(body, np.int32, rows * features, middle)
    return dense.reshape(rows, dense_width), ids.reshape(rows, features)


def encode_reply(scores: Floats) -> bytes:
    """Of scores f4 [n]."""
    return scores.tobytes()


def decode_reply(body: bytes) -> Floats:
    """Scores f4 [n], a read-only view. ValueError if ``body`` is no whole number of them."""
    return np.frombuffer(body, np.float32)

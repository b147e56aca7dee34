"""A client in a process of its own, to be stopped or killed: asks ENDPOINT COUNT times at once for ROWS rows.

It says "sent", then, once every request has ended, how many were scored and how many failed by a typed error.
"""

import sys

from narsil_client import Client, NarsilError
from narsil_client.conformance.case import ModelShape, Rows

TIMEOUT_S = 20.0


def main(endpoint: str, count: int, rows: int) -> None:
    with Client(endpoint, timeout_s=TIMEOUT_S) as client:
        asked = Rows.of(ModelShape.of(client.metadata().meta), rows)
        pending = [client.submit(dense=asked.dense, ids=asked.ids) for _ in range(count)]
        print("sent", flush=True)
        scored, failed = 0, 0
        for each in pending:
            try:
                scored += len(each.result().scores) == rows
            except NarsilError:
                failed += 1
        print("scored", scored, "failed", failed, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

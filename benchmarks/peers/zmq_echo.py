"""A bare ROUTER that answers each message with as many bytes as a scores reply has: what ZeroMQ itself costs.

python benchmarks/peers/zmq_echo.py ENDPOINT HEADER_BYTES SCORES_BYTES
"""

import sys

import zmq


def main() -> None:
    endpoint, header_bytes, scores_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    router = zmq.Context().socket(zmq.ROUTER)
    router.bind(endpoint)
    print(f"ready {endpoint}", flush=True)
    header, scores = bytes(header_bytes), bytes(scores_bytes)
    while True:
        identity = router.recv_multipart()[0]
        router.send_multipart([identity, header, scores])


if __name__ == "__main__":
    main()

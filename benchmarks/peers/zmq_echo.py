"""A bare ROUTER that computes for a while and answers each message with as many bytes as a scores reply has.

python benchmarks/peers/zmq_echo.py ENDPOINT HEADER_BYTES SCORES_BYTES WORK_US
"""

import sys
import time

import zmq


def main() -> None:
    endpoint = sys.argv[1]
    header_bytes, scores_bytes, work_us = map(int, sys.argv[2:])
    router = zmq.Context().socket(zmq.ROUTER)
    router.bind(endpoint)
    print(f"ready {endpoint}", flush=True)
    header, scores = bytes(header_bytes), bytes(scores_bytes)
    while True:
        identity = router.recv_multipart()[0]
        until_ns = time.perf_counter_ns() + work_us * 1000
        while time.perf_counter_ns() < until_ns:
            pass
        router.send_multipart([identity, header, scores])


if __name__ == "__main__":
    main()

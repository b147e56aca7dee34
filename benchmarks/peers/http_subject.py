"""A server that speaks HTTP as a Subject: requests as bodies of POSTs on connections that are kept alive."""

import time
from collections.abc import Callable, Sequence
from io import BytesIO

import pycurl

from benchmarks.peers.wire import Floats, decode_reply, encode_request
from narsil_graph.bench.subject import LOST, OK, TIMEOUT, Done, Rows

TIMEOUT_MS = 5000
# What servers say instead of scores. mosec's full queue is 429, everybody else's 503.
STATUSES = {408: TIMEOUT, 429: "OVERLOADED", 503: "OVERLOADED", 504: TIMEOUT}
Encode = Callable[[Rows], bytes]
Decode = Callable[[bytes], Floats]


def encode_rows(rows: Rows) -> bytes:
    return encode_request(rows.dense, rows.ids)


class HttpSubject:
    """One connection for each of ``inflight_max`` requests: HTTP/1.1 answers a connection's requests one by one."""

    def __init__(
        self,
        url: str,
        inflight_max: int,
        *,
        encode: Encode = encode_rows,
        decode: Decode = decode_reply,
        headers: Sequence[str] = (),
    ) -> None:
        self._encode = encode
        self._decode = decode
        self._numbers: dict[pycurl.Curl, int] = {}
        self._bodies: dict[pycurl.Curl, BytesIO] = {}
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, inflight_max)
        # No "Expect: 100-continue": it would cost a large body another round trip.
        sent = ["Content-Type: application/octet-stream", "Expect:", *headers]
        self._idle = [_handle(url, sent) for _ in range(inflight_max)]

    def submit(self, number: int, rows: Rows) -> bool:
        """Send a request. False if every connection awaits an answer."""
        if not self._idle:
            return False
        handle = self._idle.pop()
        self._numbers[handle] = number
        self._bodies[handle] = body = BytesIO()
        handle.setopt(pycurl.POSTFIELDS, self._encode(rows))
        handle.setopt(pycurl.WRITEFUNCTION, body.write)
        self._multi.add_handle(handle)
        # On a connection that is open this writes the request to its socket.
        self._multi.perform()
        return True

    def poll(self, timeout_s: float) -> list[Done]:
        """What has ended; waits for something at most so long."""
        deadline_s = time.monotonic() + timeout_s
        self._multi.perform()
        done = self._ended()
        while not done and self._numbers and (left_s := deadline_s - time.monotonic()) > 0:
            self._multi.select(left_s)
            self._multi.perform()
            done = self._ended()
        if not self._numbers and not done:
            time.sleep(max(0.0, deadline_s - time.monotonic()))
        return done

    def close(self) -> None:
        for handle in self._numbers:
            self._multi.remove_handle(handle)
        self._numbers.clear()
        self._multi.close()

    def _ended(self) -> list[Done]:
        _, finished, failed = self._multi.info_read()
        if not finished and not failed:
            return []
        done_ns = time.monotonic_ns()
        ended = [self._answered(handle, done_ns) for handle in finished]
        for handle, code, _ in failed:
            status = TIMEOUT if code == pycurl.E_OPERATION_TIMEDOUT else LOST
            ended.append(Done(self._freed(handle)[0], done_ns, status))
        return ended

    def _answered(self, handle: pycurl.Curl, done_ns: int) -> Done:
        code = handle.getinfo(pycurl.RESPONSE_CODE)
        number, body = self._freed(handle)
        if code != 200:
            return Done(number, done_ns, STATUSES.get(code, f"HTTP_{code}"))
        return Done(number, done_ns, OK, self._decode(body))

    def _freed(self, handle: pycurl.Curl) -> tuple[int, bytes]:
        self._multi.remove_handle(handle)
        self._idle.append(handle)
        return self._numbers.pop(handle), self._bodies.pop(handle).getvalue()


def _handle(url: str, headers: Sequence[str]) -> pycurl.Curl:
    handle = pycurl.Curl()
    handle.setopt(pycurl.URL, url)
    handle.setopt(pycurl.POST, 1)
    handle.setopt(pycurl.HTTPHEADER, list(headers))
    handle.setopt(pycurl.TIMEOUT_MS, TIMEOUT_MS)
    handle.setopt(pycurl.NOSIGNAL, 1)
    handle.setopt(pycurl.TCP_NODELAY, 1)
    # Loopback never goes through a proxy of the environment.
    handle.setopt(pycurl.NOPROXY, "*")
    return handle

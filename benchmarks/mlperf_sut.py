"""The system under test as LoadGen sees it: samples go in from its threads, one thread of ours has the socket."""

import os
import select
from collections import deque
from collections.abc import Callable, Iterable
from threading import Thread
from time import monotonic_ns
from types import TracebackType
from typing import Self

from narsil_client.dealer import Dealer
from narsil_graph.bench.requests import RequestPool
from narsil_graph.bench.subject import Floats
from narsil_transport.messages import WINDOW_START, InferRequest, RefusalReply, ScoresReply
from narsil_transport.wire import decode_reply, encode_request

# A server that answers nothing for so long, with something to answer, fails the run.
SILENCE_S = 10.0

Sample = tuple[int, int]
"""LoadGen's id of it, unique among those under way, and its number in the pool."""
Complete = Callable[[int, Floats | None], None]
"""Takes a sample's id and its scores f4 [rows], None where the run has failed."""


class Sut:
    """Answers samples over one DEALER, from `with` to its end; `complete` is called in its thread.

    At most `in_flight_max` requests are under way, and no more than the server grants; the others wait here, for
    LoadGen issues an Offline run's samples all at once. LoadGen has no word for a request that failed and waits for
    every sample: so with the first refusal, or after `silence_s` without an answer, `failure` says why, and all
    samples, of then and later, are completed without scores.
    """

    def __init__(
        self,
        dealer: Dealer,
        pool: RequestPool,
        complete: Complete,
        *,
        in_flight_max: int,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.failure: str | None = None
        self.answered = 0
        self.rows = 0
        self._dealer = dealer
        self._pool = pool
        self._complete = complete
        self._in_flight_max = in_flight_max
        self._silence_s = silence_s
        self._window = WINDOW_START
        self._waiting: deque[Sample] = deque()
        self._under_way: dict[int, int] = {}
        self._closing = False
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._thread = Thread(target=self._run, name="dealer")

    def __enter__(self) -> Self:
        for fd in (self._wake_fd, self._dealer.fd):
            self._poll.register(fd, select.POLLIN)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        os.eventfd_write(self._wake_fd, 1)
        self._thread.join()
        os.close(self._wake_fd)

    def issue(self, samples: Iterable[Sample]) -> None:
        """From any thread; returns at once."""
        self._waiting.extend(samples)
        os.eventfd_write(self._wake_fd, 1)

    def _run(self) -> None:
        try:
            self._serve()
        # Whatever it is, LoadGen would wait for ever for the samples that this thread no longer ends.
        except Exception as error:
            self.failure = str(error) or repr(error)
            while not self._closing:
                self._abandon()
                self._sleep()

    def _serve(self) -> None:
        # Only now: where sending fails, the look for answers that follows may swallow the edge that tells of room.
        self._dealer.wait_writable(int(self._silence_s * 1e3))
        heard_ns = monotonic_ns()
        while not self._closing:
            self._send()
            if self._take():
                heard_ns = monotonic_ns()
                continue
            # Sending and taking may have swallowed the edge: so it sleeps only after a look that found nothing.
            idle = not self._under_way and not self._waiting
            self._sleep()
            if idle:
                heard_ns = monotonic_ns()
            elif monotonic_ns() - heard_ns > self._silence_s * 1e9:
                raise RuntimeError(f"no answer for {self._silence_s:g} s with {len(self._under_way)} requests sent")

    def _send(self) -> None:
        room = min(self._in_flight_max, self._window)
        while self._waiting and len(self._under_way) < room:
            sample_id, number = self._waiting[0]
            rows = self._pool[number]
            request = InferRequest(sample_id, "", None, None, rows.dense, rows.ids, None, None)
            if not self._dealer.send(encode_request(request)):
                return
            self._waiting.popleft()
            self._under_way[sample_id] = len(rows)

    def _take(self) -> bool:
        """Whether anything had come. Raises RuntimeError unless it was scores, WireError unless it was a reply."""
        answered = self.answered
        while (frames := self._dealer.take()) is not None:
            reply = decode_reply(frames)
            if reply.window is not None:
                self._window = reply.window
            if isinstance(reply, RefusalReply):
                raise RuntimeError(f"refused {reply.refusal.status.name}: {reply.refusal.detail}")
            rows = self._under_way.get(reply.request_id)
            if rows is None or not isinstance(reply, ScoresReply) or len(reply.scores) != rows:
                raise RuntimeError(f"want {rows} scores for sample {reply.request_id}, got {reply}")
            self.answered += 1
            self.rows += rows
            self._complete(reply.request_id, reply.scores)
            # Not before: what is raised above must leave it to be abandoned.
            del self._under_way[reply.request_id]
        return self.answered > answered

    def _sleep(self) -> None:
        """Until something is issued or may have come; at most `silence_s`."""
        for fd, _ in self._poll.poll(self._silence_s * 1e3):
            if fd == self._wake_fd:
                os.eventfd_read(fd)

    def _abandon(self) -> None:
        for sample_id in self._under_way:
            self._complete(sample_id, None)
        self._under_way.clear()
        while self._waiting:
            self._complete(self._waiting.popleft()[0], None)

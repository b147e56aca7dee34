"""Sends requests and logs what became of them, on one thread."""

import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import monotonic_ns

from narsil_graph.bench.log import Log
from narsil_graph.bench.requests import RequestPool
from narsil_graph.bench.subject import LOST, Done, Subject
from narsil_graph.simulation.arrivals import Int64s

Clock = Callable[[], int]

# A sleep may last so much longer than asked (a timer's slack of 50 us, then the wake-up): nearer than this, only look.
SLEEP_MARGIN_NS = 200_000
# With no room there is nothing to do but wait for an answer; so often a subject may see that a connection is back.
ROOM_WAIT_S = 0.001
# Above a subject's own time-out, so that what is unanswered ends there as TIMEOUT, and as LOST only where it forgets:
# an end that came later would be taken for that of another load's request of this number.
DRAIN_S = 10.0


class _Flight:
    """The requests that are under way, and the log of those that are not any more."""

    def __init__(self, subject: Subject, pool: RequestPool, clock: Clock, *, keep_scores: bool) -> None:
        self.log = Log(keep_scores=keep_scores)
        self.under_way: dict[int, tuple[int, int, int]] = {}
        self._subject = subject
        self._pool = pool
        self._clock = clock

    def send(self, number: int, intended_ns: int) -> bool:
        """False where there is no room for it now."""
        rows = self._pool[number]
        now_ns = self._clock()
        if not self._subject.submit(number, rows):
            return False
        self.under_way[number] = intended_ns, now_ns, len(rows)
        return True

    def poll(self, timeout_s: float) -> None:
        for done in self._subject.poll(timeout_s):
            # Of another load there is none, unless that one gave up waiting for it.
            sent = self.under_way.pop(done.number, None)
            if sent is not None:
                intended_ns, sent_ns, rows = sent
                self.log.add(intended_ns=intended_ns, sent_ns=sent_ns, rows=rows, done=done)

    def drain(self, drain_s: float) -> None:
        """Wait so long for what is under way; what has no end by then is LOST."""
        until_ns = self._clock() + int(drain_s * 1e9)
        while self.under_way and (left_ns := until_ns - self._clock()) > 0:
            self.poll(left_ns / 1e9)
        now_ns = self._clock()
        for number, (intended_ns, sent_ns, rows) in self.under_way.items():
            self.log.add(intended_ns=intended_ns, sent_ns=sent_ns, rows=rows, done=Done(number, now_ns, LOST))

    def never_sent(self, number: int, intended_ns: int) -> None:
        now_ns = self._clock()
        rows = len(self._pool[number])
        self.log.add(intended_ns=intended_ns, sent_ns=now_ns, rows=rows, done=Done(number, now_ns, LOST))


def open_loop(
    subject: Subject,
    pool: RequestPool,
    arrival_ns: Int64s,
    *,
    begin_number: int = 0,
    keep_scores: bool = False,
    drain_s: float = DRAIN_S,
    clock: Clock = monotonic_ns,
) -> Log:
    """Send one request at each of these times [n], counted from now, whether or not the others are answered.

    Where there is no room for it, it waits here, and its latency runs all the same. What is not sent `drain_s` after
    the last time, or has no end as long after the last was sent, is LOST. The log's seconds run to the last time or
    the last end, whichever is later.
    """
    flight = _Flight(subject, pool, clock, keep_scores=keep_scores)
    with _no_collection():
        begin_ns = clock()
        due_ns: list[int] = (arrival_ns + begin_ns).tolist()
        last_ns = due_ns[-1] if due_ns else begin_ns
        give_up_ns = last_ns + int(drain_s * 1e9)
        sent = 0
        while sent < len(due_ns):
            wait_ns = due_ns[sent] - clock()
            if wait_ns > 0:
                flight.poll((wait_ns - SLEEP_MARGIN_NS) / 1e9 if wait_ns > SLEEP_MARGIN_NS else 0.0)
            elif flight.send(begin_number + sent, due_ns[sent]):
                sent += 1
                # Between two that are overdue, too: an answer's time is when it is taken.
                flight.poll(0.0)
            elif clock() < give_up_ns:
                flight.poll(ROOM_WAIT_S)
            else:
                break
        flight.drain(drain_s)
        for place in range(sent, len(due_ns)):
            flight.never_sent(begin_number + place, due_ns[place])
    flight.log.seconds = (max(last_ns, _last_done_ns(flight.log, begin_ns)) - begin_ns) / 1e9
    return flight.log


def closed_loop(
    subject: Subject,
    pool: RequestPool,
    in_flight: int,
    seconds: float,
    *,
    begin_number: int = 0,
    keep_scores: bool = False,
    drain_s: float = DRAIN_S,
    clock: Clock = monotonic_ns,
) -> Log:
    """Keep so many requests under way for so long, each sent when there is room for it, then wait for the last.

    What has no end `drain_s` later is LOST. The log's seconds run to the last end.
    """
    flight = _Flight(subject, pool, clock, keep_scores=keep_scores)
    number = begin_number
    with _no_collection():
        begin_ns = wanted_ns = clock()
        end_ns = begin_ns + int(seconds * 1e9)
        while (now_ns := clock()) < end_ns:
            if len(flight.under_way) >= in_flight:
                flight.poll((end_ns - now_ns) / 1e9)
                wanted_ns = clock()
            elif flight.send(number, wanted_ns):
                number += 1
                wanted_ns = clock()
            else:
                flight.poll(ROOM_WAIT_S)
        flight.drain(drain_s)
    flight.log.seconds = (_last_done_ns(flight.log, begin_ns) - begin_ns) / 1e9
    return flight.log


def _last_done_ns(log: Log, begin_ns: int) -> int:
    return int(log.done_ns.max()) if len(log) else begin_ns


@contextmanager
def _no_collection() -> Generator[None]:
    """No garbage collection meanwhile, which would stand in the middle of somebody's latency."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()

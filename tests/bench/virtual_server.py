"""A server on virtual time, as a Subject: one request after the other, and nothing while it is paused."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from narsil_graph.bench.requests import RequestPool
from narsil_graph.bench.subject import OK, Done, Rows
from narsil_transport.messages import StageTimes
from tests.engine.tiny import Shape

SPEC = Shape().spec()
POOL = RequestPool.constant(SPEC, 4, seed=0, count=8)
# What a look costs: time has to go on while the driver only looks.
LOOK_NS = 20_000
MS = 1_000_000


@dataclass(slots=True)
class VirtualServer:
    """Each request takes `service_ns`; those in `refused` are refused after it, and those in `forgotten` never end.

    `paused_ns` is from when to when nothing is answered. At most `room` are under way. `now_ns` is the clock.
    """

    service_ns: int = MS
    room: int = 1 << 30
    paused_ns: tuple[int, int] = (0, 0)
    forgotten: frozenset[int] = frozenset()
    refused: frozenset[int] = frozenset()
    now_ns: int = 0
    free_ns: int = 0
    asked: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    due: deque[Done] = field(default_factory=deque[Done])
    lost: int = 0

    def clock(self) -> int:
        return self.now_ns

    def submit(self, number: int, rows: Rows) -> bool:
        if len(self.due) + self.lost >= self.room:
            return False
        self.asked.append((number, self.now_ns))
        if number in self.forgotten:
            self.lost += 1
            return True
        done_ns = max(self.now_ns, self.free_ns) + self.service_ns
        begin_ns, end_ns = self.paused_ns
        if begin_ns <= done_ns < end_ns:
            done_ns = end_ns
        self.free_ns = done_ns
        if number in self.refused:
            self.due.append(Done(number, done_ns, "OVERLOADED"))
        else:
            scores = np.full(len(rows), number, np.float32)
            times = StageTimes(1.0, 2.0, 3.0, 4.0, 20.0)
            self.due.append(Done(number, done_ns, OK, scores, times, "A"))
        return True

    def poll(self, timeout_s: float) -> list[Done]:
        until_ns = self.now_ns + max(LOOK_NS, int(timeout_s * 1e9))
        if timeout_s > 0 and self.due:
            until_ns = min(until_ns, max(self.now_ns, self.due[0].done_ns))
        self.now_ns = until_ns
        found: list[Done] = []
        while self.due and self.due[0].done_ns <= self.now_ns:
            found.append(self.due.popleft())
        return found

    def close(self) -> None:
        self.due.clear()

"""Where the simulated loop's requests come from: a list that is known beforehand, or clients that wait for answers."""

from bisect import bisect_right
from heapq import heappop, heappush
from typing import NamedTuple, Protocol

import numpy as np

from narsil_graph.simulation.arrivals import Arrivals, ClosedLoop

NEVER_NS = 1 << 62
# Sizes and pauses of a closed loop are drawn so many at a time: numpy's price is by the call.
DRAWN_AT_ONCE = 1024


class Arrival(NamedTuple):
    """One request, as it lies in the socket."""

    arrival_ns: int
    rows: int
    ids: int
    deadline_us: int
    bulk: bool


class Feed(Protocol):
    """What the loop's socket holds. Requests are numbered from 0 in the order in which `receive` gives them out."""

    def next_ns(self) -> int:
        """When the next request is there, or `NEVER_NS`."""
        ...

    def receive(self, now_ns: int, most: int) -> list[Arrival]:
        """At most so many of those that have arrived by now."""
        ...

    def answered(self, index: int, now_ns: int) -> None:
        """Request `index` has its reply, whatever that is."""
        ...


class OpenFeed:
    """Requests that come whether or not earlier ones were answered."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._times = arrivals.arrival_ns.tolist()
        others = (arrivals.rows, arrivals.ids, arrivals.deadline_us, arrivals.bulk)
        self._arrivals = list(map(Arrival, self._times, *(column.tolist() for column in others)))
        self._given = 0

    def next_ns(self) -> int:
        return self._times[self._given] if self._given < len(self._times) else NEVER_NS

    def receive(self, now_ns: int, most: int) -> list[Arrival]:
        begin = self._given
        self._given = min(bisect_right(self._times, now_ns, begin), begin + most)
        return self._arrivals[begin : self._given]

    def answered(self, index: int, now_ns: int) -> None:
        pass


class ClosedFeed:
    """`clients` of the loop's, each with one request under way or thinking; they begin within one time to think."""

    def __init__(self, loop: ClosedLoop, clients: int, rng: np.random.Generator) -> None:
        self._loop = loop
        self._rng = rng
        self._end_ns = int(loop.seconds * 1e9)
        self._rows: list[int] = []
        self._thinks_ns: list[int] = []
        self._waiting = sorted(int(loop.think_us * 1e3 * share) for share in rng.random(clients))

    def next_ns(self) -> int:
        return self._waiting[0] if self._waiting else NEVER_NS

    def receive(self, now_ns: int, most: int) -> list[Arrival]:
        found: list[Arrival] = []
        while len(found) < most and self._waiting and self._waiting[0] <= now_ns:
            if not self._rows:
                self._rows = self._loop.sizes(self._rng, DRAWN_AT_ONCE).tolist()
            rows = self._rows.pop()
            ids = rows * self._loop.ids_per_row
            found.append(Arrival(heappop(self._waiting), rows, ids, self._loop.deadline_us, False))
        return found

    def answered(self, index: int, now_ns: int) -> None:
        if not self._thinks_ns:
            drawn = self._rng.exponential(self._loop.think_us * 1e3, DRAWN_AT_ONCE)
            # At least a nanosecond, so that a client which is refused for ever cannot stop the clock.
            self._thinks_ns = (1 + drawn).astype(np.int64).tolist()
        next_ns = now_ns + self._thinks_ns.pop()
        if next_ns < self._end_ns:
            heappush(self._waiting, next_ns)

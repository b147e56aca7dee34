"""What became of each request of a load."""

from array import array
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from narsil_graph.bench.subject import OK, Done, Floats
from narsil_graph.simulation.arrivals import Int64s

Floats64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

_NO_TIMES = (float("nan"),) * 5


class Log:
    """Requests in the order in which they ended, by columns [n]; `seconds` is how long the load lasted.

    `intended_ns` is when a request was to be sent, `sent_ns` when it was (the end of one that never was), `done_ns`
    its end. `statuses` and `variants` are as `Done` has them. With `keep_scores`, `scores` has those of each, None of
    one that failed.
    """

    def __init__(self, *, keep_scores: bool = False) -> None:
        self.seconds = 0.0
        self.statuses: list[str] = []
        self.variants: list[str | None] = []
        self.scores: list[Floats | None] | None = [] if keep_scores else None
        self._number, self._intended, self._sent, self._done, self._rows = (array("q") for _ in range(5))
        self._times = array("d")

    @classmethod
    def joined(cls, logs: Sequence["Log"]) -> Self:
        """Several loads as one, that lasted as long as all; with scores if all have some."""
        whole = cls(keep_scores=all(log.scores is not None for log in logs))
        for log in logs:
            whole._take(log)
        return whole

    def add(self, *, intended_ns: int, sent_ns: int, rows: int, done: Done) -> None:
        """One request that has ended."""
        self._number.append(done.number)
        self._intended.append(intended_ns)
        self._sent.append(sent_ns)
        self._done.append(done.done_ns)
        self._rows.append(rows)
        self._times.extend(done.times or _NO_TIMES)
        self.statuses.append(done.status)
        self.variants.append(done.variant)
        if self.scores is not None:
            self.scores.append(done.scores)

    def __len__(self) -> int:
        return len(self.statuses)

    @property
    def number(self) -> Int64s:
        return np.array(self._number, np.int64)

    @property
    def intended_ns(self) -> Int64s:
        return np.array(self._intended, np.int64)

    @property
    def sent_ns(self) -> Int64s:
        return np.array(self._sent, np.int64)

    @property
    def done_ns(self) -> Int64s:
        return np.array(self._done, np.int64)

    @property
    def rows(self) -> Int64s:
        return np.array(self._rows, np.int64)

    @property
    def times(self) -> Floats64:
        """The server's `StageTimes` in microseconds, float64 [n, 5]; NaN where it told none."""
        return np.array(self._times, np.float64).reshape(-1, 5)

    @property
    def ok(self) -> Bools:
        return np.array([status == OK for status in self.statuses], np.bool_)

    @property
    def latency_us(self) -> Floats64:
        """From when the request was to be sent to its end."""
        return (self.done_ns - self.intended_ns) / 1e3

    @property
    def naive_us(self) -> Floats64:
        """From when it was sent: what a client says that does not count its own waiting."""
        return (self.done_ns - self.sent_ns) / 1e3

    @property
    def rows_ok(self) -> int:
        """Rows that were scored."""
        return int(self.rows[self.ok].sum())

    @property
    def requests_per_s(self) -> float:
        return int(self.ok.sum()) / self.seconds if self.seconds else 0.0

    @property
    def samples_per_s(self) -> float:
        return self.rows_ok / self.seconds if self.seconds else 0.0

    def _take(self, other: "Log") -> None:
        self.seconds += other.seconds
        self.statuses += other.statuses
        self.variants += other.variants
        if self.scores is not None and other.scores is not None:
            self.scores += other.scores
        self._number += other._number
        self._intended += other._intended
        self._sent += other._sent
        self._done += other._done
        self._rows += other._rows
        self._times += other._times

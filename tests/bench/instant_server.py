"""A server whose answers are there at once and say how late they come: what is compared is known beforehand."""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic_ns
from types import ModuleType

import numpy as np
import pytest

from narsil_graph.bench.subject import OK, Done, Rows, Started

Late = Callable[[np.random.Generator], float]
"""Draws a latency in microseconds."""


def about(latency_us: float, scatter: float = 0.02) -> Late:
    return lambda rng: latency_us * float(rng.lognormal(0.0, scatter))


class InstantSubject:
    """Answers in order, one look after the request; each score is its row's first dense value, and `added`."""

    def __init__(self, late: Late, *, added: float = 0.0, refused: frozenset[int] = frozenset(), seed: int = 0) -> None:
        self.asked: list[int] = []
        self._late = late
        self._added = np.float32(added)
        self._refused = refused
        self._rng = np.random.default_rng(seed)
        self._done: list[Done] = []

    def submit(self, number: int, rows: Rows) -> bool:
        self.asked.append(number)
        done_ns = monotonic_ns() + int(self._late(self._rng) * 1e3)
        if number in self._refused:
            self._done.append(Done(number, done_ns, "OVERLOADED"))
        else:
            self._done.append(Done(number, done_ns, OK, rows.dense[:, 0] + self._added))
        return True

    def poll(self, timeout_s: float) -> list[Done]:
        found, self._done = self._done, []
        return found

    def close(self) -> None:
        self._done.clear()


def adapter(monkeypatch: pytest.MonkeyPatch, name: str, lates: Sequence[Late], *, added: float = 0.0) -> str:
    """The text of a variant; its starts are as late as `lates` says, one after the other and around again."""
    starts: list[Path] = []

    @contextmanager
    def start(model: Path) -> Generator[Started]:
        late = lates[len(starts) % len(lates)]
        starts.append(model)
        yield Started(lambda in_flight: InstantSubject(late, added=added, seed=len(starts)))

    module = ModuleType(name)
    vars(module)["start"] = start
    monkeypatch.setitem(sys.modules, name, module)
    return f"adapter:{name}"

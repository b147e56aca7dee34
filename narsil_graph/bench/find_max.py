"""The highest load that keeps a promise."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from narsil_graph.bench.load_result import LoadResult

# What is found is less than this share below the lowest rate that failed.
RESOLUTION = 0.05
# A rate that is not confirmed is followed by one so much lower.
STEP = 0.95
# Below this share of the first rate nothing is looked for; nor are more than so many confirmations tried.
LEAST_SHARE = 1 / 8
CONFIRMATIONS_MAX = 10

Measure = Callable[[float], LoadResult]


@dataclass(frozen=True, slots=True)
class Trial:
    """One measurement at `rate` requests per second; `confirming` where it was one of the longer runs."""

    rate: float
    slo_p99_us: float | None
    met: bool
    confirming: bool


@dataclass(frozen=True, slots=True)
class Found:
    """The highest rate that met the objective in a confirming run, and that run; None where there is none."""

    rate: float | None
    result: LoadResult | None
    trials: tuple[Trial, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class _Search:
    def __init__(self, measure: Measure, confirm: Measure, slo_p99_us: float) -> None:
        self._measure = measure
        self._confirm = confirm
        self._slo_p99_us = slo_p99_us
        self.trials: list[Trial] = []

    def met(self, rate: float) -> bool:
        """A second run has the last word where the first fails: a stall of the machine is not the server's limit."""
        return self._tried(self._measure(rate), rate, False) or self._tried(self._measure(rate), rate, False)

    def confirmed(self, rate: float) -> LoadResult | None:
        result = self._confirm(rate)
        return result if self._tried(result, rate, True) else None

    def _tried(self, result: LoadResult, rate: float, confirming: bool) -> bool:
        met = result.meets(self._slo_p99_us)
        self.trials.append(Trial(rate, result.slo_p99_us, met, confirming))
        return met


def find_max(measure: Measure, slo_p99_us: float, low: float, high: float, *, confirm: Measure | None = None) -> Found:
    """The highest rate from `low` to `high` at which 99% of requests are answered within `slo_p99_us`.

    Where `low` is too much already, it looks below. `measure` loads a server at a rate; `confirm`, by default the
    same, does so for longer, and has the last word on what is returned. Raises ValueError unless 0 < low <= high.
    """
    if not 0 < low <= high:
        raise ValueError(f"want rates 0 < low <= high, got {low} and {high}")
    search = _Search(measure, confirm or measure, slo_p99_us)
    rate = _bisected(search, low, high)
    for _ in range(CONFIRMATIONS_MAX):
        if rate is None:
            break
        result = search.confirmed(rate)
        if result is not None:
            return Found(rate, result, tuple(search.trials))
        rate *= STEP
    return Found(None, None, tuple(search.trials))


def _bisected(search: _Search, low: float, high: float) -> float | None:
    """The highest rate that was met, once one RESOLUTION above it was not."""
    least = low * LEAST_SHARE
    failed = math.inf
    while not search.met(low):
        failed, low = low, low / 2
        if low < least:
            return None
    while failed / low > 1 + RESOLUTION:
        # Doubling until one fails; then between the two, in the middle of their ratio.
        rate = min(2 * low, high) if failed == math.inf else (low * failed) ** 0.5
        if not search.met(rate):
            failed = rate
        elif rate == high:
            return high
        else:
            low = rate
    return low

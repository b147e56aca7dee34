"""An interval for a ratio that few, noisy, paired measurements still cover as often as it says."""

from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import NDArray

Floats64 = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 4000
# Cut off at each end, so that a disturbed round or two cost little precision and no truth. With 0.2 coverage was lower.
TRIM = 0.1
# Fewer cannot say how far they scatter.
ROUNDS_MIN = 6


@dataclass(frozen=True, slots=True)
class Interval:
    """A ratio and its 95% interval, in which the truth may be."""

    ratio: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.ratio <= self.high:
            raise ValueError(f"want 0 < low <= ratio <= high, got {self.low}, {self.ratio}, {self.high}")

    @property
    def half_width(self) -> float:
        """Of the logarithm: about the share of the ratio by which it is uncertain either way."""
        return (log(self.high) - log(self.low)) / 2

    @property
    def bounds(self) -> str:
        return f"95% CI {self.low:.3f}-{self.high:.3f}"

    def __str__(self) -> str:
        return f"{self.ratio:.3f}x, {self.bounds}"


def ratio_interval(log_ratios: Floats64, seed: int) -> Interval:
    """Of what `log_ratios` [rounds] scatter about, each that of one round's B over A.

    A bootstrap of the rounds, of the trimmed mean divided by its own error (Student's way), both sides alike: with a
    dozen rounds, percentiles of the bare mean would be too narrow. ValueError for fewer than ROUNDS_MIN.
    """
    rounds = len(log_ratios)
    if rounds < ROUNDS_MIN:
        raise ValueError(f"want {ROUNDS_MIN} rounds at least, got {rounds}")
    middle, error = (float(part[0]) for part in _trimmed(log_ratios[None]))
    drawn = log_ratios[np.random.default_rng(seed).integers(0, rounds, (RESAMPLES, rounds))]
    middles, errors = _trimmed(drawn)
    # A resample of equals says nothing of its error: the truth is as far from it as can be.
    away = np.full(RESAMPLES, np.inf)
    np.divide(np.abs(middles - middle), errors, out=away, where=errors > 0)
    half = error * float(np.quantile(away, CONFIDENCE, method="higher")) if error > 0 else np.inf
    # With six rounds or more, the truth is outside all that was seen in 3% of runs at most.
    reach = float(np.abs(log_ratios - middle).max())
    half = min(half, reach)
    return Interval(exp(middle), exp(middle - half), exp(middle + half))


def _trimmed(rows: Floats64) -> tuple[Floats64, Floats64]:
    """The trimmed mean of each row and its standard error, which is that of the winsorised row."""
    rounds = rows.shape[1]
    cut = int(TRIM * rounds)
    inner = np.sort(rows, axis=1)[:, cut : rounds - cut]
    winsorised = np.concatenate([inner, *[inner[:, :1], inner[:, -1:]] * cut], axis=1)
    kept = inner.shape[1] / rounds
    return inner.mean(axis=1), winsorised.std(axis=1, ddof=1) / (kept * np.sqrt(rounds))

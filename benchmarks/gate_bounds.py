"""The bounds of benchmarks/gates.toml, and what a measured ratio says of one."""

import enum
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import interval


class Verdict(enum.Enum):
    """OPEN where the interval lies on both sides of the bound: too few rounds, or too noisy, to say."""

    KEPT = "kept"
    OPEN = "open"
    BROKEN = "BROKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The least that a ratio may be, or the most: exactly one of them."""

    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        given = [limit for limit in (self.at_least, self.at_most) if limit is not None]
        if len(given) != 1 or not given[0] > 0:
            raise ValueError("want one of at_least and at_most, above 0")

    def __str__(self) -> str:
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"

    def verdict(self, low: float, high: float) -> Verdict:
        """BROKEN only if all of the interval from ``low`` to ``high`` is beyond the bound."""
        if self.at_least is not None:
            return self._of(low >= self.at_least, high < self.at_least)
        assert self.at_most is not None
        return self._of(high <= self.at_most, low > self.at_most)

    def _of(self, within: bool, beyond: bool) -> Verdict:
        return Verdict.KEPT if within else Verdict.BROKEN if beyond else Verdict.OPEN


@dataclass(frozen=True, slots=True)
class Outcome:
    """A gate's ratio with its interval, and what that says of its bound."""

    name: str
    bound: Bound
    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, name: str, bound: Bound, ratios: Sequence[float]) -> "Outcome":
        """Of one ratio a round."""
        return cls(name, bound, *interval(ratios))

    @property
    def verdict(self) -> Verdict:
        return self.bound.verdict(self.low, self.high)


def load_bounds(path: Path, names: Sequence[str]) -> dict[str, Bound]:
    """The bounds of exactly these gates. Raises ValueError with one sentence where the file has anything else."""
    try:
        tables = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    strange = sorted(set(tables) ^ set(names))
    if strange:
        where = "no gate of that name" if strange[0] in tables else "no bound for it"
        raise ValueError(f"{path}: {strange[0]}: there is {where}")
    return {name: _bound(path, name, tables[name]) for name in names}


def _bound(path: Path, name: str, table: object) -> Bound:
    if not isinstance(table, dict) or not all(
        type(value) in (int, float) and key in ("at_least", "at_most") for key, value in table.items()
    ):
        raise ValueError(f"{path}: {name}: want at_least or at_most with a number")
    try:
        return Bound(**{key: float(value) for key, value in table.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {name}: {error}") from None

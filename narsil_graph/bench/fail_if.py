"""Conditions that make a comparison fail: `p99 > 1.05`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from narsil_graph.bench.agreement import SCORES
from narsil_graph.bench.bootstrap import Interval
from narsil_graph.bench.verdict import RATIOS
from narsil_graph.errors import UsageFailure

_CONDITION = re.compile(r"\s*(\w+)\s*([<>])\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*")


@dataclass(frozen=True, slots=True)
class Condition:
    """`name` above (or below) `bound`: a ratio B / A, or a measure of the scores."""

    name: str
    above: bool
    bound: float

    def __str__(self) -> str:
        return f"{self.name} {'>' if self.above else '<'} {self.bound:g}"

    @property
    def of_ratio(self) -> bool:
        return self.name in RATIOS

    def holds(self, ratios: Mapping[str, Interval], scores: Mapping[str, float]) -> bool | None:
        """Whether a whole interval is beyond the bound; None where there is no such number."""
        if self.name in scores:
            value = scores[self.name]
            return value > self.bound if self.above else value < self.bound
        if self.name not in ratios:
            return None
        interval = ratios[self.name]
        return interval.low > self.bound if self.above else interval.high < self.bound


def parse_condition(text: str) -> Condition:
    """Raises UsageFailure, which says what there is to compare."""
    found = _CONDITION.fullmatch(text)
    if found is None or found[1] not in {*RATIOS, *SCORES}:
        known = ", ".join((*RATIOS, *SCORES))
        raise UsageFailure(f"want --fail-if 'NAME > NUMBER' or 'NAME < NUMBER' with a NAME of {known}, got {text!r}")
    return Condition(found[1], found[2] == ">", float(found[3]))

"""A comparison as text and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from narsil_graph.bench.agreement import Agreement
from narsil_graph.bench.bootstrap import Interval
from narsil_graph.bench.comparison import Phase
from narsil_graph.bench.fail_if import Condition
from narsil_graph.bench.verdict import (
    Tolerance,
    agreement_sentence,
    failed_sentence,
    noise,
    noisy_sentence,
    ratio_sentence,
)

# What is asked where no condition says: whether B is faster.
ASKED = "p50"


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What `check`, A against A, and `found`, A against B, say together; `noisy` has why a ratio says nothing."""

    check: dict[str, Interval]
    found: dict[str, Interval]
    noisy: dict[str, str]
    agreement: Agreement | None
    conditions: Sequence[Condition]
    blocks: int
    check_blocks: int
    failures: Sequence[str] = field(default_factory=tuple)

    @classmethod
    def of(
        cls, check: Phase, found: Phase, tolerance: Tolerance, conditions: Sequence[Condition], seed: int
    ) -> "Verdict":
        check_intervals = check.intervals(seed)
        whys = {name: noise(interval, tolerance) for name, interval in check_intervals.items()}
        failures = (failed_sentence(name.upper(), found.statuses(name)) for name in ("a", "b"))
        return cls(
            check=check_intervals,
            found=found.intervals(seed),
            noisy={name: why for name, why in whys.items() if why},
            agreement=found.agreement,
            conditions=conditions,
            blocks=found.blocks,
            check_blocks=check.blocks,
            failures=tuple(sentence for sentence in failures if sentence),
        )

    @property
    def said(self) -> dict[str, Interval]:
        """The ratios that are not too noisy."""
        return {name: interval for name, interval in self.found.items() if name not in self.noisy}

    def outcomes(self) -> list[tuple[Condition, bool | None]]:
        """Each condition, and whether it holds; None where that cannot be said."""
        scores = {} if self.agreement is None else self.agreement.to_dict()
        return [(condition, condition.holds(self.said, scores)) for condition in self.conditions]

    @property
    def exit_code(self) -> int:
        """1 if a condition holds, else 3 if what was asked cannot be said, else 0."""
        outcomes = [holds for _, holds in self.outcomes()]
        if any(outcomes):
            return 1
        unsaid = None in outcomes if outcomes else ASKED not in self.said
        return 3 if unsaid else 0

    def text(self) -> str:
        lines = [f"A against A, {self.check_blocks} blocks each:"]
        lines += [f"  {name:<11}{interval}" for name, interval in self.check.items()]
        for name, interval in self.found.items():
            why = self.noisy.get(name)
            lines.append(noisy_sentence(name, why) if why else ratio_sentence(name, interval, self.blocks))
        lines += [agreement_sentence(self.agreement, self.said), *self.failures]
        for condition, holds in self.outcomes():
            words = {True: "holds: failed", False: "does not hold for sure", None: "cannot be said"}
            lines.append(f"{condition}: {words[holds]}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "a_against_a": {name: asdict(interval) for name, interval in self.check.items()},
            "b_against_a": {name: asdict(interval) for name, interval in self.found.items()},
            "too_noisy": self.noisy,
            "agreement": None if self.agreement is None else _finite(self.agreement.to_dict()),
            "conditions": [{"condition": str(one), "holds": holds} for one, holds in self.outcomes()],
            "blocks": self.blocks,
            "blocks_of_check": self.check_blocks,
            "without_scores": list(self.failures),
            "sentences": self.text().splitlines(),
            "exit_code": self.exit_code,
        }


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no infinity."""
    return {name: value if isfinite(value) else None for name, value in values.items()}

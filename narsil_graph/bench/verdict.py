"""What a comparison says, in sentences."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log1p

from narsil_graph.bench.agreement import Agreement
from narsil_graph.bench.bootstrap import Interval
from narsil_graph.bench.subject import OK

RATIOS = {"p50": "p50", "p99": "p99", "throughput": "throughput", "cpu": "CPU time per sample"}
"""What is compared as a ratio B / A: in a condition's words, and in a sentence's."""
_HIGHER_IS_BETTER = frozenset({"throughput"})
# float32 sums in another order differ by so much; scores are in [0, 1].
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far A may be from A: by `margin` of the ratio for sure, or by `resolution` either way in doubt."""

    margin: float
    resolution: float

    def __post_init__(self) -> None:
        if not (0 < self.margin < 1 and 0 < self.resolution < 1):
            raise ValueError(f"want margin and resolution between 0 and 1, got {self.margin} and {self.resolution}")


def noise(of_equals: Interval, tolerance: Tolerance) -> str | None:
    """Why A against A, as this interval has it, lets nothing be said of B; None if it does not."""
    if of_equals.low > 1 + tolerance.margin or of_equals.high < 1 / (1 + tolerance.margin):
        return f"A against A is {of_equals}."
    if of_equals.half_width > log1p(tolerance.resolution):
        return f"A against A is {of_equals}, uncertain by more than {tolerance.resolution:.1%}."
    return None


def ratio_sentence(name: str, interval: Interval, blocks: int) -> str:
    """`B's p99 is 0.810x A's, 95% CI 0.770-0.860, 24 blocks: better.`"""
    if interval.low <= 1 <= interval.high:
        judged = "no difference was seen"
    else:
        judged = "better" if (interval.low > 1) == (name in _HIGHER_IS_BETTER) else "worse"
    return f"B's {RATIOS[name]} is {interval.ratio:.3f}x A's, {interval.bounds}, {blocks} blocks: {judged}."


def noisy_sentence(name: str, why: str) -> str:
    return f"B's {RATIOS[name]}: too noisy to say. {why}"


def agreement_sentence(found: Agreement | None, ratios: Mapping[str, Interval]) -> str:
    """Whether the scores are the same; a B that is faster with other scores is called that."""
    if found is None:
        return "The scores were not compared: no request was answered by both."
    counted = f"{found.rows} rows of {found.requests} requests"
    if found.score_max_diff == 0:
        return f"B's scores are A's, bit for bit, in {counted}."
    apart = (
        f"scores differ by at most {found.score_max_diff:.2g} (mean {found.score_mean_diff:.2g}) in {counted}; "
        f"{found.rank_agreement:.3%} of pairs keep their order, {found.top1_kept:.1%} of requests their best row"
    )
    if found.score_max_diff <= ROUNDING:
        return f"B's {apart}: rounding."
    faster = any(ratios[name].high < 1 for name in ("p50", "p99", "cpu") if name in ratios)
    faster |= "throughput" in ratios and ratios["throughput"].low > 1
    return f"B is faster, but does not answer the same: {apart}." if faster else f"B's {apart}."


def failed_sentence(name: str, statuses: Mapping[str, int]) -> str | None:
    """How many of a variant's requests had no scores, if any."""
    failed = {status: count for status, count in statuses.items() if status != OK}
    if not failed:
        return None
    kinds = ", ".join(f"{count} {status}" for status, count in sorted(failed.items()))
    return f"{name} left {sum(failed.values()) / sum(statuses.values()):.2%} of its requests without scores: {kinds}."

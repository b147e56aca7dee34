"""Whether two servers score alike: the same requests to both."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from narsil_graph.bench.requests import RequestPool
from narsil_graph.bench.subject import OK, Floats, Subject
from narsil_graph.errors import Failure

REQUESTS = 100
# So many of a request's rows, evenly spaced, have 32,640 pairs to put in order.
RANKED_ROWS_MAX = 256
PATIENCE_S = 30.0
# Also the names of these in a condition.
SCORES = ("score_max_diff", "score_mean_diff", "rank_agreement", "top1_kept")


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far B's scores are from A's, over so many rows of so many requests; inf where one is no number.

    `rank_agreement` is the mean share of a request's pairs of rows (of 256 at most) that both put in the same order,
    ties being an order of their own, and `top1_kept` the share of requests in which B's best row has A's best score.
    """

    requests: int
    rows: int
    score_max_diff: float
    score_mean_diff: float
    rank_agreement: float
    top1_kept: float

    def to_dict(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


def scored(subject: Subject, pool: RequestPool, count: int, in_flight: int) -> dict[int, Floats]:
    """The scores of the pool's first `count` requests that were answered, by number."""
    found: dict[int, Floats] = {}
    begun = ended = 0
    end_s = time.monotonic() + PATIENCE_S
    while ended < count:
        while begun < count and begun - ended < in_flight and subject.submit(begun, pool[begun]):
            begun += 1
        for done in subject.poll(0.01):
            ended += 1
            if done.status == OK and done.scores is not None:
                found[done.number] = done.scores
        if time.monotonic() > end_s:
            raise Failure(f"a server left {count - ended} of {count} requests unanswered for {PATIENCE_S:.0f} s")
    return found


def agreement(a: Mapping[int, Floats], b: Mapping[int, Floats]) -> Agreement | None:
    """Over the requests that both answered, each f4 [rows]; None if there is none. A Failure if a length differs."""
    both = sorted(a.keys() & b.keys())
    if not both:
        return None
    for number in both:
        if a[number].shape != b[number].shape:
            raise Failure(f"B answers a request of {len(a[number])} rows with {len(b[number])} scores")
    # NaN is as far from a score as can be, and equal to nothing.
    with np.errstate(invalid="ignore"):
        apart = np.concatenate([np.abs(a[number].astype(np.float64) - b[number]) for number in both])
        apart[np.isnan(apart)] = np.inf
        orders = [_same_order(a[number], b[number]) for number in both if len(a[number]) > 1]
    kept = [bool(a[number][b[number].argmax()] == a[number].max()) for number in both]
    return Agreement(
        requests=len(both),
        rows=len(apart),
        score_max_diff=float(apart.max()),
        score_mean_diff=float(apart.mean()),
        rank_agreement=float(np.mean(orders)) if orders else 1.0,
        top1_kept=float(np.mean(kept)),
    )


def _same_order(a: Floats, b: Floats) -> float:
    every = slice(None, None, -(-len(a) // RANKED_ROWS_MAX))
    a, b = a[every], b[every]
    above = np.triu_indices(len(a), 1)
    order_a, order_b = (np.sign(scores[:, None] - scores[None])[above] for scores in (a, b))
    return float(np.mean(order_a == order_b))

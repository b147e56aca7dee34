"""What the doctor has a bucket score, and the scores that others give the same rows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narsil_graph.engine.synthetic import bags_request, one_hot_request
from narsil_graph.model.spec import ModelSpec
from narsil_transport.buckets import Bucket
from narsil_transport.messages import InferRequest, Lengths

Floats = NDArray[np.floating]
Scorer = Callable[[InferRequest], Floats]

# float64 takes a millisecond a row, and what goes wrong beyond these rows shows beside the eager forward.
EXACT_ROWS_MAX = 64
# Longer bags sum to vectors that no calibration of int8 has seen.
USUAL_IDS_MAX = 3


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Case:
    """An input of as many rows as the bucket has, and its scores by others, of its first rows or all.

    ``eager`` is None where there is no eager forward in the engine's arithmetic, ``exact`` (float64's) where the input
    is no usual one.
    """

    request: InferRequest
    eager: Floats | None
    exact: Floats | None

    @property
    def expected(self) -> Floats:
        """The closest to the engine's that there is."""
        expected = self.exact if self.eager is None else self.eager
        assert expected is not None, "a case that nobody else scores proves nothing"
        return expected


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """For each of a launch's two forms a pair of usual inputs; and multi-hot ones at the edges of what fits."""

    one_id: tuple[Case, Case]
    bags: tuple[Case, Case]
    edges: tuple[Case, ...]

    @property
    def all(self) -> tuple[Case, ...]:
        return (*self.one_id, *self.bags, *self.edges)


def cases_of(
    spec: ModelSpec, bucket: Bucket, rng: np.random.Generator, *, eager: Scorer | None, exact: Scorer
) -> Cases:
    """The cases of ``bucket``, which has room for one id in every bag."""

    def usual(request: InferRequest) -> Case:
        return Case(request=request, eager=eager and eager(request), exact=exact(head(request, EXACT_ROWS_MAX)))

    rows, features = bucket.rows, len(spec.sparse_features)
    bags = rows * features
    empty, last = np.zeros(bags, np.int32), np.zeros(bags, np.int32)
    last[-1] = min(bucket.ids, USUAL_IDS_MAX)
    edges = [lengths.reshape(rows, features) for lengths in (empty, last, scattered(bags, bucket.ids, rng))]
    return Cases(
        one_id=(usual(one_hot_request(spec, rows, rng)), usual(one_hot_request(spec, rows, rng))),
        bags=(usual(usual_bags(spec, rows, rng)), usual(usual_bags(spec, rows, rng))),
        edges=tuple(
            Case(request=request, eager=eager(request), exact=None)
            for request in (bags_request(spec, lengths, rng) for lengths in edges)
            if eager is not None
        ),
    )


def usual_bags(spec: ModelSpec, rows: int, rng: np.random.Generator) -> InferRequest:
    """``rows`` rows with bags of 0 to 3 ids, at most one a bag on average."""
    features = len(spec.sparse_features)
    lengths = scattered(rows * features, rows * features, rng).clip(max=USUAL_IDS_MAX)
    return bags_request(spec, lengths.reshape(rows, features), rng)


def scattered(bags: int, ids: int, rng: np.random.Generator) -> Lengths:
    """Lengths int32 [bags] that ``ids`` ids have when each falls into a random bag."""
    return np.bincount(rng.integers(0, bags, ids), minlength=bags).astype(np.int32)


def head(request: InferRequest, rows: int) -> InferRequest:
    """The first ``rows`` rows of a request, or all where it has fewer."""
    if request.ids is not None:
        return InferRequest(0, "", None, None, request.dense[:rows], request.ids[:rows], None, None)
    assert request.lengths is not None and request.values is not None
    lengths = request.lengths[:rows]
    return InferRequest(0, "", None, None, request.dense[:rows], None, lengths, request.values[: lengths.sum()])

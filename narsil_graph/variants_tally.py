"""What a server with several models counts of each: how fast it scores, and how far a shadow's scores are off. Pure."""

from collections import Counter
from dataclasses import dataclass, field
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from narsil_transport.messages import Floats, StageTimes
from narsil_transport.status import Status

# Eight bins an octave: a bin's ends are an eighth apart at most.
BIN_BITS = 3
# Pairs of rows grow with the square, and a shadow must not keep the loop for longer than a launch: of 64 rows they are
# compared in some 15 us.
RANKED_ROWS_MAX = 64


class Histogram:
    """Whole microseconds in bins that grow with them, exact below 16."""

    __slots__ = ("_bins", "_count", "_max_us")

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}
        self._count = 0
        self._max_us = 0.0

    def add(self, taken_us: float) -> None:
        """One more; below 0 counts as 0."""
        whole = max(int(taken_us), 0)
        shift = max(whole.bit_length() - BIN_BITS - 1, 0)
        least_us = whole >> shift << shift
        self._bins[least_us] = self._bins.get(least_us, 0) + 1
        self._count += 1
        self._max_us = max(self._max_us, taken_us)

    def to_dict(self) -> dict[str, object]:
        """`count`, the least microsecond of the bin in which p50, p90 and p99 are, `max`, and the bins in use."""
        bins = sorted(self._bins.items())
        return {
            "count": self._count,
            **{f"p{percent}": self._percentile(bins, percent) for percent in (50, 90, 99)},
            "max": self._max_us,
            "histogram": bins,
        }

    def _percentile(self, bins: list[tuple[int, int]], percent: int) -> int:
        below = 0
        for least_us, count in bins:
            below += count
            if below * 100 >= percent * self._count:
                return least_us
        return 0


@dataclass(slots=True, eq=False)
class Tally:
    """The requests that the variant `name` has scored or `refused`. `server` is empty of one that answers nobody.

    `score_sum` is of the `finite_rows`: those of the requests without a NaN or infinite score.
    """

    name: str
    requests: int = 0
    rows: int = 0
    finite_rows: int = 0
    score_sum: float = 0.0
    refused: Counter[Status] = field(default_factory=Counter[Status])
    launch: Histogram = field(default_factory=Histogram)
    server: Histogram = field(default_factory=Histogram)

    def scored(self, scores: Floats, times: StageTimes) -> None:
        """A request's scores are there."""
        self.requests += 1
        self.rows += len(scores)
        score_sum = float(scores.sum())
        if isfinite(score_sum):
            self.finite_rows += len(scores)
            self.score_sum += score_sum
        self.launch.add(times.fill_us + times.launch_us)

    def to_dict(self) -> dict[str, object]:
        """Ready for msgpack; PROTOCOL.md says what the keys mean."""
        mean = {"score_mean": self.score_sum / self.finite_rows} if self.finite_rows else {}
        refused = {status.name: count for status, count in sorted(self.refused.items())}
        counts = {"requests": self.requests, "rows": self.rows, **mean, "refused": refused}
        return {**counts, "launch_us": self.launch.to_dict(), "server_us": self.server.to_dict()}


class Agreement:
    """How far two models' scores of the same requests are apart, and whether they put the rows in the same order."""

    __slots__ = ("_difference_max", "_difference_sum", "_nonfinite", "_ordered", "_pairs", "_requests", "_rows", "_top")

    def __init__(self) -> None:
        self._requests = self._rows = self._nonfinite = self._top = self._pairs = self._ordered = 0
        self._difference_max = self._difference_sum = 0.0

    def add(self, ours: Floats, theirs: Floats) -> None:
        """The scores f4 [n] of one request by both, n at least 1."""
        self._requests += 1
        self._rows += len(ours)
        with np.errstate(invalid="ignore"):  # infinity less infinity: left out below
            differences = np.abs(ours - theirs)
        finite = np.isfinite(differences)
        if not finite.all():
            self._nonfinite += int(np.count_nonzero(~finite))
            differences = differences[finite]
        self._difference_max = max(self._difference_max, float(differences.max(initial=0.0)))
        self._difference_sum += float(differences.sum(dtype=np.float64))
        self._top += bool(ours[theirs.argmax()] == ours.max())
        step = -(-len(ours) // RANKED_ROWS_MAX)
        ours, theirs = ours[::step], theirs[::step]
        # Each pair is there twice, once each way round, and a row is not below itself by either.
        self._ordered += int(np.count_nonzero(_below(ours) == _below(theirs))) - len(ours)
        self._pairs += len(ours) * (len(ours) - 1)

    def to_dict(self) -> dict[str, object]:
        """Ready for msgpack; what nothing is known of yet is left out."""
        compared = self._rows - self._nonfinite
        known: dict[str, object] = {
            "requests": self._requests,
            "rows": self._rows,
            "rows_nonfinite": self._nonfinite,
        }
        if compared:
            known |= {"score_max_diff": self._difference_max, "score_mean_diff": self._difference_sum / compared}
        if self._pairs:
            known["rank_agreement"] = self._ordered / self._pairs
        if self._requests:
            known["top_kept"] = self._top / self._requests
        return known


def _below(scores: Floats) -> NDArray[np.bool_]:
    return scores[:, None] < scores[None, :]

"""The cheapest way to launch n rows: a table made once, for every n."""

from bisect import bisect_left

import numpy as np
import numpy.typing as npt

from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel

# The table holds two launches of the largest bucket, and at least this many rows.
TABLE_ROWS_MIN = 2048
_UNREACHED = 1 << 62


class LaunchPlan:
    """For any number of rows the partition into launches that costs least in all, by the estimates of one moment.

    A bucket that costs no less than a larger one is left out: `ladder` has the others, so that its costs increase and
    the smallest bucket with room is the cheapest. `costs_ns` are theirs, and `ranks` their places in the order of cost
    per row. Beyond the table, whole launches of the bucket that costs least per row go first.
    """

    __slots__ = ("_best", "_first", "_work_ns", "costs_ns", "ids_per_row", "ladder", "ranks", "rows")

    def __init__(self, ladder: BucketLadder, cost: CostModel) -> None:
        kept: list[tuple[Bucket, int]] = []
        for bucket in reversed(ladder.buckets):
            launch_ns = cost.launch_ns(bucket)
            if not kept or launch_ns < kept[-1][1]:
                kept.append((bucket, launch_ns))
        kept.reverse()
        self.ladder = BucketLadder(tuple(bucket for bucket, _ in kept))
        self.rows = [bucket.rows for bucket, _ in kept]
        self.costs_ns = [launch_ns for _, launch_ns in kept]
        # A request with no more ids a row than this needs no look at ids: what has room for its rows has room for it.
        self.ids_per_row = min(bucket.ids // bucket.rows for bucket, _ in kept)
        order = sorted(range(len(kept)), key=lambda index: (self.costs_ns[index] / self.rows[index], -self.rows[index]))
        self._best = order[0]
        self.ranks = [order.index(index) for index in range(len(order))]
        work_ns = self._work(max(TABLE_ROWS_MIN, 2 * self.rows[-1]))
        self._first: list[int] = self._firsts(work_ns, order).tolist()
        self._work_ns: list[int] = work_ns.tolist()

    def _work(self, rows_max: int) -> npt.NDArray[np.int64]:
        """int64 [rows_max + 1]: the least cost of launches with room for n rows."""
        end = rows_max + self.rows[-1] + 1
        exact = np.full(end, _UNREACHED, np.int64)
        exact[0] = 0
        for rows, cost_ns in zip(self.rows, self.costs_ns, strict=True):
            # Room for m rows may be room for m - rows and a launch of this bucket, or two of them less, and so on: the
            # least down a column of a table with ``rows`` columns, once what the launches on the way cost is taken off.
            launches = -(-end // rows)
            table = np.full(launches * rows, _UNREACHED, np.int64)
            table[:end] = exact
            columns = table.reshape(launches, rows)
            on_the_way = np.arange(launches, dtype=np.int64)[:, None] * cost_ns
            columns -= on_the_way
            np.minimum.accumulate(columns, axis=0, out=columns)
            columns += on_the_way
            exact = table[:end]
        return np.minimum.accumulate(exact[::-1])[::-1][: rows_max + 1]

    def _firsts(self, work_ns: npt.NDArray[np.int64], order: list[int]) -> npt.NDArray[np.int64]:
        """int64 [len(work_ns)]: of the buckets in a cheapest partition of n, the one that comes first in ``order``."""
        first = np.full(len(work_ns), -1, np.int64)
        for index in order:
            rows = self.rows[index]
            rest_ns = np.zeros_like(work_ns)
            rest_ns[rows:] = work_ns[:-rows]
            first[(first < 0) & (rest_ns + self.costs_ns[index] == work_ns)] = index
        return first

    def index(self, rows: int) -> int:
        """Which bucket of `ladder` a cheapest partition of this many rows, at least 1, launches first."""
        return self._first[rows] if rows < len(self._first) else self._best

    def bucket(self, rows: int) -> Bucket:
        """The first launch of a cheapest partition of this many rows, at least 1: of its buckets the least per row."""
        return self.ladder.buckets[self.index(rows)]

    def work_ns(self, rows: int) -> int:
        """What a cheapest partition of this many rows costs in all; 0 for none."""
        if rows <= 0:
            return 0
        table = self._work_ns
        beyond = rows - len(table) + 1
        if beyond <= 0:
            return table[rows]
        launches = -(-beyond // self.rows[self._best])
        return launches * self.costs_ns[self._best] + table[rows - launches * self.rows[self._best]]

    def size(self, rows: int, ids: int) -> int:
        """What a request takes of the largest bucket, in rows: more than it has, where it has more ids than usual."""
        largest = self.ladder.buckets[-1]
        return max(rows, -(-ids * largest.rows // largest.ids))

    def alone_ns(self, rows: int, ids: int) -> int:
        """The cheapest launch that holds a request, or launches where no bucket does."""
        index = bisect_left(self.rows, rows)
        if index < len(self.rows) and ids <= self.ladder.buckets[index].ids:
            return self.costs_ns[index]
        covering = self.ladder.cover(rows, ids)
        return (
            self.work_ns(self.size(rows, ids))
            if covering is None
            else self.costs_ns[self.ladder.buckets.index(covering)]
        )

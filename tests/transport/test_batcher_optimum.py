"""The batcher's choice against every launch it could make, by the objective that `choose` states."""

from collections.abc import Iterator
from fractions import Fraction
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from narsil_transport.admission import Admitted
from narsil_transport.batcher import Batch, Batcher, Mode
from narsil_transport.buckets import BucketLadder
from tests.transport.queueing import costs, entering
from tests.transport.requests import FEATURES

# Microseconds, so that budgets lie among them.
LAUNCHES_US = st.dictionaries(st.integers(1, 16), st.integers(5, 30), min_size=2, max_size=4)
REQUESTS = st.lists(st.tuples(st.integers(1, 12), st.none() | st.integers(10, 80)), min_size=2, max_size=5)
# (late requests, cost of this launch and the rest, whether it splits, cost per row of the full bucket)
Value = tuple[int, int, bool, Fraction]


class Reference:
    """What is queued, in order, with how many rows each has left; and what each choice is worth."""

    def __init__(self, launches_us: dict[int, int], entered: list[Admitted]) -> None:
        self.launches_ns = {rows: cost_us * 1000 for rows, cost_us in launches_us.items()}
        self.left = [(request, request.rows) for request in sorted(entered, key=lambda request: request.due_ns)]
        self.work_ns = cache(self._work_ns)

    def _work_ns(self, rows: int) -> int:
        """The cheapest launches with room for this many rows."""
        if rows <= 0:
            return 0
        return min(cost_ns + self.work_ns(rows - size) for size, cost_ns in self.launches_ns.items())

    def per_row(self, bucket: int) -> Fraction:
        return Fraction(self.launches_ns[bucket], bucket)

    def value(self, bucket: int, taken: int, now_ns: int) -> Value:
        """What it is worth to launch the first ``taken`` rows in this bucket."""
        done_ns, end, late, borders = now_ns + self.launches_ns[bucket], 0, 0, {0}
        for request, rows in self.left:
            end += rows
            borders.add(end)
            if request.deadline_ns is not None:
                late += done_ns + self.work_ns(end - taken) >= request.deadline_ns
        return late, self.launches_ns[bucket] + self.work_ns(end - taken), taken not in borders, self.per_row(bucket)

    def values(self, now_ns: int) -> Iterator[Value]:
        """What every launch is worth, of any number of rows, that `choose` may make."""
        total = sum(rows for _, rows in self.left)
        planned = min(
            (
                size
                for size, cost_ns in self.launches_ns.items()
                if cost_ns + self.work_ns(total - size) == self.work_ns(total)
            ),
            key=self.per_row,
        )
        for bucket in self.launches_ns:
            if bucket == planned or bucket >= self.left[0][1]:
                for taken in range(1, min(bucket, total) + 1):
                    yield self.value(bucket, taken, now_ns)

    def launch(self, batch: Batch) -> None:
        """Take what was launched off the queue."""
        for piece in batch.pieces:
            request, rows = self.left[0]
            assert piece.admitted is request and piece.end - piece.begin <= rows
            self.left[0] = request, rows - (piece.end - piece.begin)
            if not self.left[0][1]:
                del self.left[0]


@settings(max_examples=1000)
@given(LAUNCHES_US, REQUESTS)
def test_every_launch_is_the_best_there_is(launches_us: dict[int, int], requests: list[tuple[int, int | None]]) -> None:
    ladder = BucketLadder.from_rows(sorted(launches_us), ids_per_row=FEATURES)
    cost = costs(ladder, {rows: cost_us * 1000 for rows, cost_us in launches_us.items()})
    queue = Batcher(ladder=ladder, cost=cost, mode=Mode.BATCH, queue_rows_max=1000)
    entered = [entering(rows, deadline_us) for rows, deadline_us in requests]
    for request in entered:
        assert queue.add(request) is None
    reference, now_ns = Reference(launches_us, entered), 0
    while True:
        late = queue.expired(now_ns)
        reference.left = [entry for entry in reference.left if entry[0] not in late]
        best = min(reference.values(now_ns)) if reference.left else None
        batch = queue.take(now_ns)
        if batch is None:
            assert best is None
            return
        assert reference.value(batch.bucket.rows, batch.rows, now_ns) == best
        reference.launch(batch)
        now_ns += cost.launch_ns(batch.bucket)

"""Which requests share a launch, by what launches cost: a queue in, batches that fit a bucket out. Pure.

Order: by due time (`Admitted.due_ns`), equal ones by arrival. A request that has been split is finished before anything
else of its priority starts, and neither expires nor is cancelled any more. Bulk requests wait in a queue of their own,
by deadline or `BULK_PATIENCE_NS` after receipt, whichever is first. They take the room that interactive requests leave
in a bucket, and lead a batch where no interactive one waits. One that has waited `BULK_PATIENCE_NS` joins the
interactive queue. Of all bulk requests at most one is partly launched.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from enum import Enum

from narsil_transport.admission import Admitted
from narsil_transport.batch import Batch, Piece, Settings
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.choice import choose
from narsil_transport.cost import CostModel
from narsil_transport.launch_plan import LaunchPlan
from narsil_transport.prediction import done_ns
from narsil_transport.queue import Queue
from narsil_transport.status import Refusal, Status

__all__ = ["BULK_PATIENCE_NS", "REPLAN_NS", "Batch", "Batcher", "Mode", "Piece", "Settings"]

# Bulk work is not waited for, but whoever sent it must see it end even if interactive requests never do.
BULK_PATIENCE_NS = 10_000_000_000
# A plan takes about a millisecond to make, so this bounds it to a hundredth of the time.
REPLAN_NS = 100_000_000
# A request that has to wait is admitted only if this share of its budget, or one largest launch, is left over. With
# less the goodput of a simulated server at 1.5 and 3 times its capacity falls: 0.95 and 0.89 without, 0.99 and 0.97
# with it.
MARGIN_SHARE = 3
_UNTUNED = Settings()


class Mode(Enum):
    """BATCH coalesces requests; INLINE and WORKER give each its own batch and differ only in the server's loop."""

    INLINE = "inline"
    WORKER = "worker"
    BATCH = "batch"


class Batcher:
    """The queue of admitted requests. Work-conserving: unless it lingers, `take` gives a batch if anything is queued.

    Every row of an admitted request must fit the ladder's largest bucket (`ModelLimits.ids_per_row_max`), and `cost`
    must know every bucket of the ladder. Up to `queue_rows_max` rows of each priority wait. `choose` says what leaves.
    """

    def __init__(
        self, *, ladder: BucketLadder, cost: CostModel, mode: Mode, queue_rows_max: int, settings: Settings = _UNTUNED
    ) -> None:
        if queue_rows_max < 1:
            raise ValueError(f"want queue_rows_max of at least 1, got {queue_rows_max}")
        self._ladder = ladder
        self._cost = cost
        self._coalesce = mode is Mode.BATCH
        self._queue_rows_max = queue_rows_max
        self._settings = settings
        self._interactive = Queue()
        self._bulk = Queue()
        self._promoted = False
        self._oldest_ns: int | None = None
        self._replan_ns = 0
        self._replan()

    @property
    def pending_rows(self) -> int:
        """Rows queued and not yet given out."""
        return self._interactive.rows_total + self._bulk.rows_total

    @property
    def pending_requests(self) -> int:
        """Requests with at least one row not yet given out."""
        return len(self._interactive.pieces) + len(self._bulk.pieces)

    @property
    def cuts(self) -> tuple[Admitted, ...]:
        """The pending requests of which some rows have been given out: at most one interactive and one bulk."""
        queues = (self._interactive, self._bulk)
        return tuple(piece.admitted for queue in queues for piece in queue.pieces[: queue.started])

    @property
    def settings(self) -> Settings:
        """As tuned last."""
        return self._settings

    def tune(self, settings: Settings) -> None:
        """Hold to these settings from the next batch on."""
        capped = settings.rows_max != self._settings.rows_max
        self._settings = settings
        if capped:
            self._replan()

    def use(self, ladder: BucketLadder) -> None:
        """Pack into these buckets from the next batch on. The largest must stay: what it holds was admitted."""
        assert ladder.buckets[-1] == self._ladder.buckets[-1]
        self._ladder = ladder
        self._replan()

    def add(self, admitted: Admitted) -> Refusal | None:
        """Queue it, or refuse it where its queue would hold more than `queue_rows_max` rows, until enough have left."""
        queue = self._bulk if admitted.bulk else self._interactive
        beyond = queue.rows_total + admitted.rows - self._queue_rows_max
        if beyond > 0:
            retry_after_us = self._plan.work_ns(beyond) // 1000
            return Refusal(Status.OVERLOADED, f"the queue holds {queue.rows_total} rows already", retry_after_us)
        if self._oldest_ns is not None and not admitted.bulk:
            self._oldest_ns = min(self._oldest_ns, admitted.admitted_ns)
        queue.insert(Piece(admitted, 0, admitted.rows, admitted.ids), _due_ns(admitted), self._plan)
        return None

    def cancel(self, matches: Callable[[Admitted], bool]) -> list[Admitted]:
        """Remove and return the queued requests that match, but for those of which something was launched."""
        self._oldest_ns = None
        cancelled: list[Piece] = []
        for queue in (self._interactive, self._bulk):
            unstarted = enumerate(queue.pieces[queue.started :], queue.started)
            cancelled += queue.remove([at for at, piece in unstarted if matches(piece.admitted)])
        return [piece.admitted for piece in cancelled]

    def expired(self, now_ns: int) -> list[Admitted]:
        """Remove and return the requests that even a launch of their own, begun now, would finish too late.

        That is the smallest bucket that holds the request, or for one beyond the largest its cheapest partition. To be
        called before `take`, which does not look for them.
        """
        late = self._interactive.expired(now_ns) + self._bulk.expired(now_ns)
        self._oldest_ns = None if late else self._oldest_ns
        return [piece.admitted for piece in late]

    def take(self, now_ns: int) -> Batch | None:
        """The next batch, or None where nothing is queued or what is queued may wait for more."""
        self._follow(now_ns)
        if self._interactive.pieces and self._leave_ns() > now_ns:
            return None
        self._promote(now_ns)
        queue, plan = self._interactive if self._interactive.pieces else self._bulk, self._plan
        if not queue.pieces:
            return None
        if self._coalesce:
            choice = choose(queue, plan, now_ns)
            batch = self._launch(queue, plan.ladder.buckets[choice.rung], choice.whole, split=choice.split)
            if queue is not self._bulk and self._bulk.pieces:
                self._fill(batch)
            return batch
        bucket = plan.ladder.cover(queue.rows[0], queue.ids[0])
        return self._launch(queue, bucket or plan.ladder.buckets[-1], int(bucket is not None), split=bucket is None)

    def wake_ns(self, now_ns: int) -> int | None:
        """When `take` would give a batch though nothing more arrives; None where nothing is queued."""
        self._follow(now_ns)
        if self._interactive.pieces:
            return max(now_ns, self._leave_ns())
        return now_ns if self._bulk.pieces else None

    def predicted_ns(self, admitted: Admitted, *, now_ns: int, free_ns: Sequence[int]) -> int:
        """When it would be answered if it were added now, where lane n is free at ``free_ns[n]``.

        It and what is due before it are launched in the plan's partition, the last launch after all others have been
        spread over the lanes. To this comes the loop's part of it and of each request before it, in whose place another
        will be received by then.
        """
        plan, due_ns = self._plan, _due_ns(admitted)
        if admitted.bulk:
            ahead = [(self._interactive, len(self._interactive.pieces)), (self._bulk, self._bulk.place(due_ns))]
        else:
            ahead = [(self._interactive, self._interactive.place(due_ns))]
        if self._coalesce:
            size = plan.size(admitted.rows, admitted.ids)
            last_ns = work_ns = plan.work_ns(size + sum(queue.size_before(place) for queue, place in ahead))
        else:
            last_ns = plan.alone_ns(admitted.rows, admitted.ids)
            work_ns = last_ns + sum(sum(queue.alone_ns[:place]) for queue, place in ahead)
        last_ns = min(last_ns, plan.costs_ns[-1])
        loop_ns = (1 + sum(place for _, place in ahead)) * (self._cost.request_ns + self._cost.reply_ns)
        return done_ns(free_ns, now_ns=now_ns, ahead_ns=work_ns - last_ns, last_ns=last_ns) + loop_ns

    def refuse_late(self, admitted: Admitted, *, now_ns: int, free_ns: Sequence[int]) -> Refusal | None:
        """The refusal of a request that, as predicted, would be done less than `margin_ns` before its deadline.

        It may come again when the queue is as much shorter as it is late, unless an idle server would be too late too.
        """
        deadline_ns = admitted.deadline_ns
        if deadline_ns is None:
            return None
        predicted_ns = self.predicted_ns(admitted, now_ns=now_ns, free_ns=free_ns)
        alone_ns = self._plan.alone_ns(admitted.rows, admitted.ids) + self._cost.request_ns + self._cost.reply_ns
        margin_ns = self._settings.margin_ns
        if predicted_ns > now_ns + alone_ns:
            # It will wait for others, and while it waits more will come and make its launch a full one. Whoever
            # is admitted closer to the deadline is saved by small launches, which cost the rows behind them theirs.
            largest_ns = self._plan.costs_ns[-1]
            margin_ns = max(margin_ns, min(largest_ns, (deadline_ns - admitted.admitted_ns) // MARGIN_SHARE))
        late_ns = predicted_ns + margin_ns - deadline_ns
        if late_ns < 0:
            return None
        predicted_us = (predicted_ns - admitted.admitted_ns) // 1000
        budget_us = (deadline_ns - admitted.admitted_ns) // 1000
        hopeless = admitted.admitted_ns + alone_ns + self._settings.margin_ns >= deadline_ns
        detail = f"scores would come after {predicted_us} us, the budget is {budget_us} us"
        return Refusal(Status.WOULD_MISS, detail, None if hopeless else late_ns // 1000 + 1, predicted_us)

    def _follow(self, now_ns: int) -> None:
        """Plan anew if the costs have drifted, but not too often."""
        if self._revision != self._cost.revision and now_ns >= self._replan_ns:
            self._replan_ns = now_ns + REPLAN_NS
            self._replan()

    def _replan(self) -> None:
        """Plan with the buckets within the cap, or else the smallest, and measure what is queued by that."""
        buckets, rows_max = self._ladder.buckets, self._settings.rows_max
        if rows_max is not None:
            buckets = tuple(bucket for bucket in buckets if bucket.rows <= rows_max) or buckets[:1]
        self._plan = LaunchPlan(BucketLadder(buckets), self._cost)
        self._revision = self._cost.revision
        self._interactive.measure(self._plan)
        self._bulk.measure(self._plan)

    def _leave_ns(self) -> int:
        """Until when the interactive requests may wait for more; 0 for not at all."""
        queue, plan, settings = self._interactive, self._plan, self._settings
        if not (self._coalesce and settings.linger_ns) or queue.started or queue.size_total >= plan.rows[-1]:
            return 0
        if self._oldest_ns is None:
            self._oldest_ns = min(piece.admitted.admitted_ns for piece in queue.pieces)
        bucket = plan.ladder.buckets[bisect_left(plan.rows, queue.size_total)]
        # Waiting is a choice, so it reckons with a slow launch.
        in_time_ns = min(queue.deadlines_ns) - self._cost.tail_ns(bucket) - settings.margin_ns - 1
        return min(self._oldest_ns + settings.linger_ns, in_time_ns)

    def _promote(self, now_ns: int) -> None:
        """Let bulk requests that have waited long enough join the interactive ones, behind the rest of a split one."""
        bulk = self._bulk
        aged = bulk.place(now_ns)
        # A rest is passed over unless something behind it has to go: its deadline no longer matters.
        if aged > bulk.started or (aged and now_ns - bulk.pieces[0].admitted.admitted_ns >= BULK_PATIENCE_NS):
            self._promoted = True
            self._oldest_ns = None
            dues_ns = bulk.dues_ns[:aged]
            for piece, due_ns in zip(bulk.draw(aged)[0], dues_ns, strict=True):
                self._interactive.insert(piece, due_ns, self._plan)

    def _launch(self, queue: Queue, bucket: Bucket, whole: int, *, split: bool) -> Batch:
        """The first ``whole`` requests, and with ``split`` as much of the next as the bucket has room for."""
        self._oldest_ns = None
        pieces, rows, ids = queue.draw(whole)
        batch = Batch(bucket, pieces, rows, ids)
        if split:
            piece = queue.pieces[0]
            part = piece.front(bucket.rows - rows, bucket.ids - ids)
            if part.end == part.begin and not whole:
                # A row of more ids than any bucket within the cap holds: admission took none beyond the largest.
                covering = self._ladder.cover(1, piece.ids_until(piece.begin + 1))
                assert covering is not None
                batch.bucket = covering
                part = piece.front(min(bucket.rows, covering.rows), covering.ids)
            self._append(batch, queue, part)
            # Ids may end a batch before the rows of its bucket are full.
            batch.bucket = self._plan.ladder.cover(batch.rows, batch.ids) or batch.bucket
        return batch

    def _fill(self, batch: Batch) -> None:
        """Give the room that interactive requests leave to bulk ones, of which it splits one at most."""
        bulk, bucket = self._bulk, batch.bucket
        pieces, rows, ids = bulk.draw(bulk.fitting(bucket.rows - batch.rows, bucket.ids - batch.ids))
        batch.pieces += pieces
        batch.rows += rows
        batch.ids += ids
        if self._promoted and not bulk.started:
            self._promoted = any(piece.admitted.bulk for piece in self._interactive.pieces)
        if bulk.pieces and (bulk.started or not self._promoted):
            self._append(batch, bulk, bulk.pieces[0].front(bucket.rows - batch.rows, bucket.ids - batch.ids))

    def _append(self, batch: Batch, queue: Queue, part: Piece) -> None:
        """Move the front of a queue's first request to the batch, unless it is empty."""
        if part.end > part.begin:
            queue.draw_front(part, self._plan)
            batch.pieces.append(part)
            batch.rows += part.end - part.begin
            batch.ids += part.ids


def _due_ns(admitted: Admitted) -> int:
    """What a queue is ordered by: for bulk, the deadline or the end of its patience, whichever is first."""
    if not admitted.bulk:
        return admitted.due_ns
    patient_ns = admitted.admitted_ns + BULK_PATIENCE_NS
    return patient_ns if admitted.deadline_ns is None else min(patient_ns, admitted.deadline_ns)

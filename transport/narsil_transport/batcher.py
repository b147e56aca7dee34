"""Which requests share a launch: a queue in, batches that fit a bucket out. Pure, given the time.

Order: by deadline, equal deadlines by arrival; requests without a deadline come after those, by arrival. So that these
never starve, the oldest of them leads the next batch once it has waited `PATIENCE_NS`. A request that has been
cut is finished before anything else starts, and is no longer expired.
"""

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from enum import Enum
from heapq import heappop, heappush

from narsil_transport.admission import Admitted
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.status import Refusal, Status

# A person who waits notices one second; a deadline on this system is a thousand times shorter.
PATIENCE_NS = 1_000_000_000


class Mode(Enum):
    """BATCH coalesces requests; INLINE and WORKER give each its own batch and differ only in the server's loop."""

    INLINE = "inline"
    WORKER = "worker"
    BATCH = "batch"


@dataclass(slots=True, eq=False)
class Piece:
    """Rows begin to end (not included) of one request, holding `ids` ids."""

    admitted: Admitted
    begin: int
    end: int
    ids: int


@dataclass(slots=True, eq=False)
class Batch:
    """Pieces in launch order, and the smallest bucket that has room for them."""

    bucket: Bucket
    pieces: list[Piece]
    rows: int
    ids: int


class Batcher:
    """The queue of admitted requests. Work-conserving: `take` gives a batch whenever anything is queued.

    Every row of an admitted request must fit the ladder's largest bucket (`ModelLimits.ids_per_row_max`).
    """

    __slots__ = (
        "_arrivals",
        "_coalesce",
        "_cut",
        "_cut_begin",
        "_ladder",
        "_patient",
        "_pending_rows",
        "_queue_rows_max",
        "_urgent",
    )

    def __init__(self, *, ladder: BucketLadder, mode: Mode, queue_rows_max: int) -> None:
        if queue_rows_max < 1:
            raise ValueError(f"want queue_rows_max of at least 1, got {queue_rows_max}")
        self._ladder = ladder
        self._coalesce = mode is Mode.BATCH
        self._queue_rows_max = queue_rows_max
        self._urgent: list[tuple[int, int, Admitted]] = []
        self._patient: deque[Admitted] = deque()
        self._cut: Admitted | None = None
        self._cut_begin = 0
        self._arrivals = 0
        self._pending_rows = 0

    @property
    def pending_rows(self) -> int:
        """Rows queued and not yet given out."""
        return self._pending_rows

    @property
    def pending_requests(self) -> int:
        """Requests with at least one row not yet given out."""
        return len(self._urgent) + len(self._patient) + (self._cut is not None)

    @property
    def cut(self) -> Admitted | None:
        """The pending request of which some rows have been given out, if there is one."""
        return self._cut

    def use(self, ladder: BucketLadder) -> None:
        """Pack into these buckets from the next batch on. The largest must stay: what it holds was admitted."""
        assert ladder.buckets[-1] == self._ladder.buckets[-1]
        self._ladder = ladder

    def add(self, admitted: Admitted) -> Refusal | None:
        """Queue it, or refuse it where the queue would hold more than `queue_rows_max` rows."""
        pending_rows = self._pending_rows + admitted.rows
        if pending_rows > self._queue_rows_max:
            return Refusal(Status.OVERLOADED, f"the queue holds {self._pending_rows} rows already")
        self._pending_rows = pending_rows
        if admitted.deadline_ns is None:
            self._patient.append(admitted)
        else:
            self._arrivals += 1
            heappush(self._urgent, (admitted.deadline_ns, self._arrivals, admitted))
        return None

    def expired(self, now_ns: int) -> list[Admitted]:
        """Queued requests whose deadline has come, removed: they are never launched."""
        late: list[Admitted] = []
        urgent = self._urgent
        while urgent and urgent[0][0] <= now_ns:
            admitted = heappop(urgent)[2]
            self._pending_rows -= admitted.rows
            late.append(admitted)
        return late

    def take(self, now_ns: int) -> Batch | None:
        """The next batch, or None where nothing is queued. Costs the batch, not the queue."""
        piece = self._lead(now_ns)
        if piece is None:
            return None
        pieces, rows, ids = [piece], piece.end - piece.begin, piece.ids
        if self._coalesce and self._cut is None:
            rows_max, ids_max = self._ladder.rows_max, self._ladder.ids_max
            urgent, patient = self._urgent, self._patient
            while urgent or patient:
                admitted = urgent[0][2] if urgent else patient[0]
                if rows + admitted.rows > rows_max or ids + admitted.ids > ids_max:
                    break
                self._drop_next()
                pieces.append(Piece(admitted, 0, admitted.rows, admitted.ids))
                rows += admitted.rows
                ids += admitted.ids
        self._pending_rows -= rows
        bucket = self._ladder.cover(rows, ids)
        # The lead piece fits the largest bucket by its making, and the loop adds nothing that does not.
        assert bucket is not None
        return Batch(bucket, pieces, rows, ids)

    def _drop_next(self) -> None:
        if self._urgent:
            heappop(self._urgent)
        else:
            self._patient.popleft()

    def _lead(self, now_ns: int) -> Piece | None:
        """The first piece of a batch: as many rows of the foremost request as the largest bucket holds."""
        admitted, begin = self._cut, self._cut_begin
        if admitted is None:
            begin = 0
            patient = self._patient
            if patient and (not self._urgent or now_ns - patient[0].admitted_ns >= PATIENCE_NS):
                admitted = patient.popleft()
            elif self._urgent:
                admitted = heappop(self._urgent)[2]
            else:
                return None
        piece = self._largest_piece(admitted, begin)
        # Admission took no row of more ids than the largest bucket holds, so every piece makes progress.
        assert piece.end > begin
        self._cut = admitted if piece.end < admitted.rows else None
        self._cut_begin = piece.end
        return piece

    def _largest_piece(self, admitted: Admitted, begin: int) -> Piece:
        rows_max, ids_max = self._ladder.rows_max, self._ladder.ids_max
        offsets = admitted.row_offsets
        end = min(admitted.rows, begin + rows_max)
        if offsets is None:
            end = min(end, begin + ids_max // admitted.ids_per_row)
            return Piece(admitted, begin, end, (end - begin) * admitted.ids_per_row)
        end = min(end, bisect_right(offsets, offsets[begin] + ids_max) - 1)
        return Piece(admitted, begin, end, int(offsets[end] - offsets[begin]))

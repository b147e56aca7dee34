"""What the server's loop asks of a batcher, and the plain one that most servers have, to compare with."""

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from narsil_transport.admission import Admitted
from narsil_transport.batcher import Batch, Piece, Settings
from narsil_transport.buckets import BucketLadder
from narsil_transport.status import Refusal, Status


class Policy(Protocol):
    """The part of `narsil_transport.batcher.Batcher` that the loop calls on a request's way."""

    @property
    def pending_requests(self) -> int: ...
    def add(self, admitted: Admitted) -> Refusal | None: ...
    def refuse_late(self, admitted: Admitted, *, now_ns: int, free_ns: Sequence[int]) -> Refusal | None: ...
    def expired(self, now_ns: int) -> list[Admitted]: ...
    def take(self, now_ns: int) -> Batch | None: ...
    def wake_ns(self, now_ns: int) -> int | None: ...
    def tune(self, settings: Settings) -> None: ...


class FixedTimeout:
    """First come, first served: a batch leaves when it is full, or when its oldest request waited the timeout.

    `rows_max` caps a batch (none: the largest bucket). It looks at no deadline and predicts nothing. Only a request
    that is larger than a batch is cut.
    """

    def __init__(
        self, *, ladder: BucketLadder, timeout_ns: int, queue_rows_max: int, rows_max: int | None = None
    ) -> None:
        self._ladder = ladder
        self._timeout_ns = timeout_ns
        self._rows_max = min(rows_max or ladder.rows_max, ladder.rows_max)
        self._queue_rows_max = queue_rows_max
        self._queue: deque[Admitted] = deque()
        self._begin = 0
        """Rows of the foremost request that have been given out."""
        self._pending_rows = self._pending_ids = 0

    @property
    def pending_requests(self) -> int:
        """Requests with at least one row not yet given out."""
        return len(self._queue)

    def add(self, admitted: Admitted) -> Refusal | None:
        """Queue it, or refuse it where the queue would hold more than `queue_rows_max` rows."""
        if self._pending_rows + admitted.rows > self._queue_rows_max:
            return Refusal(Status.OVERLOADED, f"the queue holds {self._pending_rows} rows already")
        self._pending_rows += admitted.rows
        self._pending_ids += admitted.ids
        self._queue.append(admitted)
        return None

    def refuse_late(self, admitted: Admitted, *, now_ns: int, free_ns: Sequence[int]) -> Refusal | None:
        """Never."""
        return None

    def expired(self, now_ns: int) -> list[Admitted]:
        """None: what is late is launched all the same."""
        return []

    def tune(self, settings: Settings) -> None:
        """A fixed timeout stays."""

    def wake_ns(self, now_ns: int) -> int | None:
        """When the next batch leaves if nothing arrives."""
        if not self._queue:
            return None
        return now_ns if self._full else self._queue[0].admitted_ns + self._timeout_ns

    def take(self, now_ns: int) -> Batch | None:
        """The next batch, or None where there is none or it waits for more."""
        wake_ns = self.wake_ns(now_ns)
        if wake_ns is None or wake_ns > now_ns:
            return None
        pieces: list[Piece] = []
        rows, ids = 0, 0
        while self._queue and (piece := self._next(self._rows_max - rows, self._ladder.ids_max - ids)) is not None:
            pieces.append(piece)
            rows += piece.end - piece.begin
            ids += piece.ids
            self._begin = 0 if piece.end == piece.admitted.rows else piece.end
            if self._begin:
                break
            self._queue.popleft()
        self._pending_rows -= rows
        self._pending_ids -= ids
        bucket = self._ladder.cover(rows, ids)
        assert bucket is not None
        return Batch(bucket, pieces, rows, ids)

    @property
    def _full(self) -> bool:
        return self._pending_rows >= self._rows_max or self._pending_ids >= self._ladder.ids_max

    def _next(self, rows_room: int, ids_room: int) -> Piece | None:
        """The foremost request's next piece, whole if a batch can hold it; None if this one has no room for that."""
        admitted, begin = self._queue[0], self._begin
        rows = admitted.rows - begin
        ids = ids_of(admitted, begin, admitted.rows)
        if rows <= rows_room and ids <= ids_room:
            return Piece(admitted, begin, admitted.rows, ids)
        if rows_room < self._rows_max or (rows <= self._rows_max and ids <= self._ladder.ids_max):
            return None
        # Larger than a batch, and this one is empty: as much as it holds.
        end = begin + min(rows, rows_room)
        while (ids := ids_of(admitted, begin, end)) > ids_room:
            end -= 1
        assert end > begin
        return Piece(admitted, begin, end, ids)


def ids_of(admitted: Admitted, begin: int, end: int) -> int:
    """How many ids rows begin to end (not included) of a request hold."""
    offsets = admitted.row_offsets
    if offsets is None:
        return (end - begin) * admitted.ids_per_row
    return int(offsets[end] - offsets[begin])

"""What leaves the batcher: pieces of requests that share a launch."""

from bisect import bisect_right
from dataclasses import dataclass

from narsil_transport.admission import Admitted
from narsil_transport.buckets import Bucket


@dataclass(slots=True, eq=False)
class Piece:
    """Rows begin to end (not included) of one request, holding `ids` ids."""

    admitted: Admitted
    begin: int
    end: int
    ids: int

    def ids_until(self, end: int) -> int:
        """The ids of the rows from begin to end."""
        offsets = self.admitted.row_offsets
        if offsets is None:
            return (end - self.begin) * self.admitted.ids_per_row
        return int(offsets[end] - offsets[self.begin])

    def front(self, rows: int, ids: int) -> "Piece":
        """As many of the first rows as fit into this many rows and ids: possibly none."""
        admitted, begin = self.admitted, self.begin
        end = min(self.end, begin + rows)
        offsets = admitted.row_offsets
        if offsets is None:
            end = min(end, begin + ids // admitted.ids_per_row)
        else:
            end = min(end, bisect_right(offsets, offsets[begin] + ids) - 1)
        return Piece(admitted, begin, end, self.ids_until(end))


@dataclass(slots=True, eq=False)
class Batch:
    """Pieces in launch order, and a bucket that has room for them."""

    bucket: Bucket
    pieces: list[Piece]
    rows: int
    ids: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What may be tuned while serving.

    `linger_ns` is how long the oldest request may wait for a fuller bucket, `rows_max` caps a batch (None: the largest
    bucket), and `margin_ns` is how long before its deadline a request is meant to be done.
    """

    linger_ns: int = 0
    rows_max: int | None = None
    margin_ns: int = 0

    def __post_init__(self) -> None:
        if self.linger_ns < 0 or self.margin_ns < 0:
            raise ValueError(f"want a linger and a margin of at least 0, got {self.linger_ns} and {self.margin_ns} ns")
        if self.rows_max is not None and self.rows_max < 1:
            raise ValueError(f"want batches of at least one row, got {self.rows_max}")

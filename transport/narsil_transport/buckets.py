"""The sizes that were captured, and which one covers a batch."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Bucket:
    """A captured shape: room for `rows` rows holding `ids` ids between them (one id per feature: rows * T)."""

    rows: int
    ids: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.ids < 1:
            raise ValueError(f"want a bucket of at least one row and one id, got {self.rows} and {self.ids}")


@dataclass(frozen=True, slots=True)
class BucketLadder:
    """Buckets that strictly increase in rows and never decrease in ids.

    The last bucket therefore covers every batch of at most `rows_max` rows and `ids_max` ids.
    """

    buckets: tuple[Bucket, ...]
    rows_max: int = field(init=False)
    ids_max: int = field(init=False)
    _rows: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _ids: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.buckets:
            raise ValueError("want at least one bucket")
        if any(low.rows >= high.rows or low.ids > high.ids for low, high in pairwise(self.buckets)):
            raise ValueError(f"want buckets that increase in rows and never shrink in ids, got {self.buckets}")
        object.__setattr__(self, "rows_max", self.buckets[-1].rows)
        object.__setattr__(self, "ids_max", self.buckets[-1].ids)
        object.__setattr__(self, "_rows", tuple(bucket.rows for bucket in self.buckets))
        object.__setattr__(self, "_ids", tuple(bucket.ids for bucket in self.buckets))

    @classmethod
    def from_rows(cls, rows: Iterable[int], *, ids_per_row: int) -> "BucketLadder":
        """The ladder whose every bucket holds `ids_per_row` ids for each of its rows."""
        return cls(tuple(Bucket(count, count * ids_per_row) for count in rows))

    def cover(self, rows: int, ids: int) -> Bucket | None:
        """The smallest bucket with room for both, or None beyond `rows_max` or `ids_max`."""
        index = max(bisect_left(self._rows, rows), bisect_left(self._ids, ids))
        return self.buckets[index] if index < len(self.buckets) else None


def parse_rows(text: str) -> tuple[int, ...]:
    """The row counts in a comma-separated list such as "1,2,4,8"; raises ValueError."""
    try:
        rows = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"want row counts such as 1,2,4,8, got {text!r}") from None
    if rows[0] < 1 or any(low >= high for low, high in pairwise(rows)):
        raise ValueError(f"want row counts of at least 1 that increase, got {text!r}")
    return rows

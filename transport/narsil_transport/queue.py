"""Requests that wait, in order, as parallel lists: what is asked of hundreds of them runs at C speed."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from operator import sub

from narsil_transport.batch import Piece
from narsil_transport.launch_plan import LaunchPlan

# The deadline of a request that has none, in a list of numbers.
NEVER_NS = 1 << 63


class Queue:
    """Pieces by due time, equal ones by arrival. The first `started` are rests of requests that were split.

    Entry n of each list is of the same piece: `dues_ns` what it is ordered by, `deadlines_ns` (`NEVER_NS` for none),
    `rows`, `ids`, `sizes` (`LaunchPlan.size`) and `alone_ns` (`LaunchPlan.alone_ns`). `bags` is False only if whatever
    has room for the rows of a piece has room for its ids, and so each size is its rows.
    """

    def __init__(self) -> None:
        self.dues_ns: list[int] = []
        self.deadlines_ns: list[int] = []
        self.rows: list[int] = []
        self.ids: list[int] = []
        self.sizes: list[int] = []
        self.alone_ns: list[int] = []
        self.pieces: list[Piece] = []
        self.started = 0
        self.rows_total = 0
        self.size_total = 0
        self.bags = False
        # Nothing expires before this.
        self._expiry_ns = NEVER_NS

    def place(self, due_ns: int) -> int:
        """Where a request of this due time would stand."""
        return bisect_right(self.dues_ns, due_ns, self.started)

    def size_before(self, place: int) -> int:
        """The sizes of what stands before this place."""
        return self.size_total if place == len(self.sizes) else sum(self.sizes[:place])

    def fitting(self, rows: int, ids: int) -> int:
        """How many of the first pieces fit whole into this many rows and ids."""
        # Each has a row at least.
        count = bisect_right(list(accumulate(self.rows[: rows + 1])), rows)
        return count if sum(self.ids[:count]) <= ids else bisect_right(list(accumulate(self.ids[:count])), ids)

    def insert(self, piece: Piece, due_ns: int, plan: LaunchPlan) -> None:
        """Let it wait in its place; the rest of a split request behind other rests, before everything else."""
        rows, ids, deadline_ns = piece.end - piece.begin, piece.ids, piece.admitted.deadline_ns
        size, alone_ns = plan.size(rows, ids), plan.alone_ns(rows, ids)
        at = self.place(due_ns)
        if piece.begin:
            at, self.started = self.started, self.started + 1
        elif deadline_ns is not None:
            self._expiry_ns = min(self._expiry_ns, deadline_ns - alone_ns)
        self.dues_ns.insert(at, due_ns)
        self.deadlines_ns.insert(at, NEVER_NS if deadline_ns is None else deadline_ns)
        self.rows.insert(at, rows)
        self.ids.insert(at, ids)
        self.sizes.insert(at, size)
        self.alone_ns.insert(at, alone_ns)
        self.pieces.insert(at, piece)
        self.rows_total += rows
        self.size_total += size
        self.bags = self.bags or ids > rows * plan.ids_per_row

    def draw(self, count: int) -> tuple[list[Piece], int, int]:
        """Remove and return the first pieces, and how many rows and ids they hold."""
        drawn, rows, ids = self.pieces[:count], sum(self.rows[:count]), sum(self.ids[:count])
        self.started = max(0, self.started - count)
        self.rows_total -= rows
        self.size_total -= sum(self.sizes[:count]) if self.bags else rows
        self._delete(slice(count))
        return drawn, rows, ids

    def draw_front(self, part: Piece, plan: LaunchPlan) -> None:
        """Remove ``part``, which is the front of the first piece or all of it."""
        piece = self.pieces[0]
        if part.end == piece.end:
            self.draw(1)
            return
        self.pieces[0] = rest = Piece(piece.admitted, part.end, piece.end, piece.ids - part.ids)
        rows, ids = rest.end - rest.begin, rest.ids
        size = plan.size(rows, ids)
        self.rows_total -= self.rows[0] - rows
        self.size_total -= self.sizes[0] - size
        self.rows[0], self.ids[0], self.sizes[0], self.alone_ns[0] = rows, ids, size, plan.alone_ns(rows, ids)
        self.started = max(self.started, 1)
        self.bags = self.bags or ids > rows * plan.ids_per_row

    def expired(self, now_ns: int) -> list[Piece]:
        """Remove and return those that were not split and that no launch begun now finishes before their deadline."""
        if now_ns < self._expiry_ns:
            return []
        latest_ns = list(map(sub, self.deadlines_ns, self.alone_ns))
        late = [at for at in range(self.started, len(latest_ns)) if latest_ns[at] <= now_ns]
        self._expiry_ns = min((at_ns for at_ns in latest_ns[self.started :] if at_ns > now_ns), default=NEVER_NS)
        return self.remove(late)

    def remove(self, places: Sequence[int]) -> list[Piece]:
        """Remove and return the pieces at these places, which increase; none of them may be the rest of a split one."""
        removed = [self.pieces[at] for at in places]
        for at in reversed(places):
            self.rows_total -= self.rows[at]
            self.size_total -= self.sizes[at]
            self._delete(slice(at, at + 1))
        return removed

    def _delete(self, which: slice) -> None:
        for entries in (self.dues_ns, self.deadlines_ns, self.rows, self.ids, self.sizes, self.alone_ns, self.pieces):
            del entries[which]
        self.bags = self.bags and bool(self.pieces)

    def measure(self, plan: LaunchPlan) -> None:
        """Size everything anew."""
        measured = list(zip(self.rows, self.ids, strict=True))
        self.sizes = [plan.size(rows, ids) for rows, ids in measured]
        self.alone_ns = [plan.alone_ns(rows, ids) for rows, ids in measured]
        self.size_total = sum(self.sizes)
        self.bags = any(ids > rows * plan.ids_per_row for rows, ids in measured)
        self._expiry_ns = min(map(sub, self.deadlines_ns, self.alone_ns), default=NEVER_NS)

"""Which launch is next: how many of the queued requests it takes, in which bucket, and whether it splits one."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from narsil_transport.launch_plan import LaunchPlan
from narsil_transport.queue import Queue

# Deadlines are counted over this many requests from the front: those behind are launches away, whatever is chosen.
COUNTED_MAX = 16
# Of larger requests no more than these fit a launch: the usual case needs no longer sums.
_FEW = 32


class Choice(NamedTuple):
    """The first `whole` requests, and with `split` the front of the next, in bucket `rung` of the plan's ladder.

    `total_ns` is the cost of this launch and of the cheapest partition of all that stays behind, `rank` the bucket's
    `LaunchPlan.ranks`, and `size` what the launch takes from the queue. Smaller is better, field by field.
    """

    total_ns: int
    split: bool
    rank: int
    rung: int
    whole: int
    size: int


# The fields of a Choice: while many are compared, tuples without names are made in a fifth of the time.
_Fields = tuple[int, bool, int, int, int, int]


class Front(NamedTuple):
    """Running sums over the first pieces of a queue: at least one more than the largest bucket holds, if there are.

    `ids` is None where what has room for the rows has room for the ids.
    """

    rows: Sequence[int]
    ids: Sequence[int] | None
    sizes: Sequence[int]


def choose(queue: Queue, plan: LaunchPlan, now_ns: int) -> Choice:
    """The best next launch of a queue that is not empty.

    A launch takes as many whole requests as fit its bucket, in order, or these and the front of the next, which fills
    the bucket. Every bucket that holds the first request may be chosen either way, and the one that the plan would
    launch first if requests had no borders may always be filled. A request that is launched whole is done at ``now_ns``
    and the cost of the launch; any other, by estimate, when the cheapest partition of what is left up to its own last
    row has followed. It is late if that is not before its deadline. Of all choices the best is the one that

    1. makes the fewest of the first `COUNTED_MAX` requests late;
    2. costs least per row of all that is queued: this launch and the cheapest partition of the rest;
    3. splits nothing;
    4. launches the bucket that costs least per row when full.
    """
    front = _front(queue, plan)
    cheapest = _cheapest(queue, front, plan)
    # By the estimate everything is done when all of it is, and no deadline comes before the first due time.
    if min(queue.dues_ns[: queue.started + 1]) > now_ns + cheapest[0]:
        return Choice(*cheapest)
    open_ns = _open(queue, front, plan, now_ns)
    fewest = _late(cheapest, open_ns, plan, len(open_ns))
    best = cheapest
    if fewest:
        for choice in sorted(_choices(queue, front, plan, every_split=True)):
            late = _late(choice, open_ns, plan, fewest)
            if late < fewest:
                best, fewest = choice, late
                if not late:
                    break
    return Choice(*best)


def _front(queue: Queue, plan: LaunchPlan) -> Front:
    rows = list(accumulate(queue.rows[:_FEW]))
    end = _FEW
    if rows[-1] <= plan.rows[-1] and len(queue.rows) > _FEW:
        # Each request has a row at least.
        end = plan.rows[-1] + 1
        rows = list(accumulate(queue.rows[:end]))
    if not queue.bags:
        return Front(rows, None, rows)
    return Front(rows, list(accumulate(queue.ids[:end])), list(accumulate(queue.sizes[:end])))


def _cheapest(queue: Queue, front: Front, plan: LaunchPlan) -> _Fields:
    """The best choice where no deadline is in danger: no other split than the plan's can cost as little."""
    index = plan.index(queue.size_total)
    if front.ids is None:
        rows = plan.rows[index]
        whole = bisect_right(front.rows, rows)
        if whole == len(queue.rows) or (whole and front.rows[whole - 1] == rows):
            return plan.work_ns(queue.size_total), False, plan.ranks[index], index, whole, front.rows[whole - 1]
    return min(_choices(queue, front, plan, every_split=False))


def _choices(queue: Queue, front: Front, plan: LaunchPlan, *, every_split: bool) -> list[_Fields]:
    """Every choice that splits nothing, and of the others all or the plan's own."""
    found: list[_Fields] = []
    count, size, work_ns = len(queue.rows), queue.size_total, plan.work_ns
    planned, first = plan.index(size), bisect_left(plan.rows, front.rows[0])
    last = 0
    for index in range(min(first, planned), len(plan.rows)):
        rows, cost_ns, rank = plan.rows[index], plan.costs_ns[index], plan.ranks[index]
        whole = bisect_right(front.rows, rows)
        if front.ids is not None:
            whole = min(whole, bisect_right(front.ids, plan.ladder.buckets[index].ids))
        # A larger bucket for the same requests costs more.
        if whole > last:
            taken = front.sizes[whole - 1]
            found.append((cost_ns + work_ns(size - taken), False, rank, index, whole, taken))
            last = whole
        splits = index == planned or (every_split and whole)
        if splits and whole < count and (not whole or front.rows[whole - 1] < rows):
            taken = max(rows, front.sizes[whole - 1]) if whole else rows
            found.append((cost_ns + work_ns(size - taken), True, rank, index, whole, taken))
    return found


def _open(queue: Queue, front: Front, plan: LaunchPlan, now_ns: int) -> list[tuple[int, int]]:
    """(size up to its end, time left) of the first requests whose lateness depends on the choice."""
    found: list[tuple[int, int]] = []
    longest_ns = plan.costs_ns[-1]
    for end, deadline_ns in zip(front.sizes, queue.deadlines_ns[:COUNTED_MAX], strict=False):
        left_ns = deadline_ns - now_ns
        # No choice is done with it sooner than a cheapest partition, nor later than that and one launch.
        if 0 < left_ns - plan.work_ns(end) <= longest_ns:
            found.append((end, left_ns))
    return found


def _late(choice: _Fields, open_ns: list[tuple[int, int]], plan: LaunchPlan, enough: int) -> int:
    """How many of these requests this choice makes late; counting ends at ``enough``."""
    _, _, _, rung, _, size = choice
    cost_ns, late = plan.costs_ns[rung], 0
    for end, left_ns in open_ns:
        if (cost_ns if end <= size else cost_ns + plan.work_ns(end - size)) >= left_ns:
            late += 1
            if late == enough:
                break
    return late

"""When a request that arrives now would be answered."""

from collections.abc import Sequence
from itertools import pairwise


def done_ns(free_ns: Sequence[int], *, now_ns: int, ahead_ns: int, last_ns: int) -> int:
    """When a launch of ``last_ns`` ends that begins once lanes have done ``ahead_ns`` of work between them.

    Lane n is free at ``free_ns[n]``, or now. The work ahead fills the lanes as water finds its level.
    """
    levels = sorted(max(now_ns, lane_ns) for lane_ns in free_ns)
    for lanes, (low_ns, high_ns) in enumerate(pairwise(levels), 1):
        room_ns = (high_ns - low_ns) * lanes
        if ahead_ns <= room_ns:
            return low_ns + ahead_ns // lanes + last_ns
        ahead_ns -= room_ns
    return levels[-1] + ahead_ns // len(levels) + last_ns

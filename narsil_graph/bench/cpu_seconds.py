"""How much of a processor some processes have used."""

import time
from collections.abc import Iterable

from narsil_graph.errors import UsageFailure

# What clock_getcpuclockid(3) gives on Linux: the complement of the process above three bits, of which 2 asks for what
# the scheduler has counted, in nanoseconds, of every thread that is or was. /proc/PID/stat has the same in 10 ms ticks.
_PID_SHIFT, _SCHEDULED = 3, 2


def cpu_seconds(pids: Iterable[int]) -> float:
    """User's and system's seconds so far, of all threads of these processes.

    Raises UsageFailure where one does not run.
    """
    return sum(_cpu_ns(pid) for pid in pids) / 1e9


def _cpu_ns(pid: int) -> int:
    try:
        return time.clock_gettime_ns(~pid << _PID_SHIFT | _SCHEDULED)
    # A clock's number has 32 bits, and what is greater than fits is no process.
    except (OSError, OverflowError):
        raise UsageFailure(f"there is no process {pid}, whose processor time was to be counted") from None

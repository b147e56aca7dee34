"""How much of a processor some processes have used."""

import os
from collections.abc import Iterable
from pathlib import Path

from narsil_graph.errors import UsageFailure

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Of /proc/PID/stat, counted from behind the command's name, which may hold anything: utime and stime.
_USER, _SYSTEM = 11, 12


def cpu_seconds(pids: Iterable[int]) -> float:
    """User's and system's seconds so far, of all threads of these processes; in steps of 10 ms.

    Raises UsageFailure where one does not run.
    """
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            raise UsageFailure(f"there is no process {pid}, whose processor time was to be counted") from None
        ticks += int(fields[_USER]) + int(fields[_SYSTEM])
    return ticks / _TICKS_PER_S

"""The last line before the process is in danger: by its resident memory, refuse new work, then cut the connections."""

import ctypes
import resource
from collections.abc import Callable
from enum import Enum
from pathlib import Path

# Looked at so often: at a fast network's gigabyte a second, 20 MB come between two looks.
LOOK_MS = 20
LOOK_NS = LOOK_MS * 1_000_000
# What was cut has been freed by then. With a second here, one peer that came back at once reached twice the limit.
CUT_NS = 50_000_000
# Giving memory back walks the heap, which takes milliseconds.
TRIM_NS = 100_000_000
REFUSE_FRACTION = 0.9


class Pressure(Enum):
    """What there is to do."""

    NONE = 0
    REFUSE = 1
    CUT = 2


class MemoryWatch:
    """Judges what `resident_bytes` says against a limit, and has the allocator `trim` first when it is near.

    Without the trim the verdict would stand for ever: what libzmq's threads free stays with the allocator (of 300 MiB
    in an unfinished message, 250 were still resident after the cut, and none after malloc_trim).
    """

    def __init__(self, limit_bytes: int, *, resident_bytes: Callable[[], int], trim: Callable[[], object]) -> None:
        self._limit_bytes = limit_bytes
        self._refuse_bytes = int(limit_bytes * REFUSE_FRACTION)
        self._resident_bytes = resident_bytes
        self._trim = trim
        self._look_ns = self._trim_ns = self._cut_ns = 0
        self._short = False
        self.cuts = 0

    def look(self, now_ns: int) -> Pressure:
        """What to do now. The memory is read once in LOOK_NS, CUT is said once in CUT_NS."""
        if now_ns >= self._look_ns:
            self._look_ns = now_ns + LOOK_NS
            resident = self._resident_bytes()
            if resident >= self._refuse_bytes and now_ns >= self._trim_ns:
                self._trim_ns = now_ns + TRIM_NS
                self._trim()
                resident = self._resident_bytes()
            self._short = resident >= self._refuse_bytes
            if resident >= self._limit_bytes and now_ns >= self._cut_ns:
                self._cut_ns = now_ns + CUT_NS
                # What the cut frees is to be seen as soon as it is free.
                self._trim_ns = 0
                self.cuts += 1
                return Pressure.CUT
        return Pressure.REFUSE if self._short else Pressure.NONE


def resident_bytes() -> int:
    """This process's resident set: what a container's limit counts, the touched pages of mapped files included."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()


def trim() -> None:
    """Have glibc give back what is free; another C library keeps its own counsel."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)

"""The highest load that a server holds, by trials that are cheap and a confirmation that is not. Pure."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Of the capacity: how finely the trials look. Finer than their noise would be wasted.
TRIALS = 6
# How far each confirmation that fails steps down, and how often: to 0.6 of what the trials found.
STEP, STEPS = 0.95, 10


def peak(holds: Callable[[float], bool], confirm: Callable[[float], tuple[bool, T]], *, capacity: float) -> T:
    """What the confirmation gave at the highest rate up to `capacity` that it succeeded at, or at the last it tried.

    `holds` is a short trial and may err, as it does near the limit; so it only chooses where to begin.
    """
    low, high = 0.0, capacity
    for _ in range(TRIALS):
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
    # Where no trial held, the lowest that was not tried may.
    rate = low or high / 2
    confirmed, found = confirm(rate)
    for _ in range(STEPS):
        if confirmed:
            break
        rate *= STEP
        confirmed, found = confirm(rate)
    return found

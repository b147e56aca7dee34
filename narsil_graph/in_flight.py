"""A launch that has not been answered, and where the time of its requests went."""

import time
from dataclasses import dataclass

from narsil_graph.engine.engine import Flight, Launched
from narsil_transport.admission import Admitted
from narsil_transport.batcher import Batch
from narsil_transport.messages import StageTimes


@dataclass(slots=True, eq=False)
class InFlight:
    """A launched batch, when the loop took it from the queue, and whether its lane had nothing else to do."""

    batch: Batch
    flight: Flight
    begin_ns: int
    alone: bool


def stage_times(admitted: Admitted, launched: Launched, begin_ns: int, landed_ns: int) -> StageTimes:
    """Where a reply's time went, which began with its admission; a split request's stages are those of its last launch.

    The launch stage ends when the loop has read the scores, and so holds its wait for other batches to be answered.
    """
    now_ns = time.monotonic_ns()
    return StageTimes(
        (begin_ns - admitted.admitted_ns) / 1e3,
        launched.fill_ns / 1e3,
        launched.launch_ns / 1e3,
        (now_ns - landed_ns) / 1e3,
        (now_ns - admitted.admitted_ns) / 1e3,
    )

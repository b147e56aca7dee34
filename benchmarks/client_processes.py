"""One load from several processes at once. Nothing here imports torch: a client starts in a fraction of a second."""

import multiprocessing
from multiprocessing.synchronize import Barrier

from benchmarks.load import Load, closed_loop, messages
from narsil_graph.model.spec import ModelSpec

MEETING_S = 60
# In a client process: where it waits for the others.
_meeting: list[Barrier] = []


def client_loads(
    endpoints: list[str], spec: ModelSpec, *, rows: int, in_flight: int, processes: int, seconds: float
) -> list[Load]:
    """What each process measured; they begin at the same moment and share the requests in flight evenly."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _meet_at, (context.Barrier(processes),)) as pool:
        work = [(endpoints, spec, rows, in_flight // processes, seconds)] * processes
        return pool.starmap(_client, work, chunksize=1)


def _meet_at(barrier: Barrier) -> None:
    _meeting.append(barrier)


def _client(endpoints: list[str], spec: ModelSpec, rows: int, in_flight: int, seconds: float) -> Load:
    places = messages(spec, rows=rows, in_flight=in_flight)
    _meeting[0].wait(MEETING_S)
    return closed_loop(endpoints, places, rows=rows, seconds=seconds)

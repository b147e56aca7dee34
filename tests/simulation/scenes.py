"""Small servers and traffic that the simulation's tests share."""

from collections.abc import Callable, Sequence

import numpy as np

from narsil_graph.simulation.arrivals import Arrivals
from narsil_graph.simulation.outcome import Outcome
from narsil_graph.simulation.policies import FixedTimeout
from narsil_graph.simulation.simulator import Scheduler
from narsil_transport.batcher import Batcher, Mode
from narsil_transport.buckets import BucketLadder
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.status import Status

QUEUE_ROWS_MAX = 65536
# A launch of n rows of these buckets takes 50 + n us, in one of a hundred a fifth more.
BASE_NS, ROW_NS = 50_000, 1_000


def ladder_of(*rows: int) -> BucketLadder:
    return BucketLadder.from_rows(rows, ids_per_row=1)


def launch_ns(rows: int) -> int:
    return BASE_NS + rows * ROW_NS


def cost_of(ladder: BucketLadder, *, request_ns: int = 0, reply_ns: int = 0) -> CostModel:
    measured = {
        bucket: LaunchCost(launch_ns(bucket.rows), launch_ns(bucket.rows) * 6 // 5) for bucket in ladder.buckets
    }
    return CostModel(measured, request_ns=request_ns, reply_ns=reply_ns)


def by_cost(*rows: int, queue_rows_max: int = QUEUE_ROWS_MAX, **loop_ns: int) -> Callable[[], Scheduler]:
    def made() -> Scheduler:
        ladder = ladder_of(*rows)
        cost = cost_of(ladder, **loop_ns)
        return Scheduler(Batcher(ladder=ladder, cost=cost, mode=Mode.BATCH, queue_rows_max=queue_rows_max), cost)

    return made


def by_timeout(*rows: int, timeout_us: int = 0, **loop_ns: int) -> Callable[[], Scheduler]:
    def made() -> Scheduler:
        ladder = ladder_of(*rows)
        policy = FixedTimeout(ladder=ladder, timeout_ns=timeout_us * 1000, queue_rows_max=QUEUE_ROWS_MAX)
        return Scheduler(policy, cost_of(ladder, **loop_ns))

    return made


def arrivals_at(times_us: Sequence[int], *, rows: int = 1, deadline_us: int = 0) -> Arrivals:
    """One request at each of these times."""
    times_ns = np.array(times_us, np.int64) * 1000
    return Arrivals.drawn(times_ns, np.full(len(times_ns), rows, np.int64), ids_per_row=1, deadline_us=deadline_us)


def latencies_us(outcome: Outcome) -> list[float]:
    return [float(latency) / 1e3 for latency in outcome.latency_ns]


def statuses(outcome: Outcome) -> list[Status]:
    return [Status(status) for status in outcome.requests["status"]]

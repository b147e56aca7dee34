"""Microseconds of a decision: what the batcher takes to add, to predict and refuse, and to choose the next batch.

python benchmarks/deciding.py
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks import machine
from narsil_graph.commands import BUCKETS
from narsil_transport.admission import PATIENCE_NS, Admitted
from narsil_transport.batcher import Batcher, Mode, Piece
from narsil_transport.buckets import BucketLadder, parse_rows
from narsil_transport.choice import choose
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.launch_plan import LaunchPlan
from narsil_transport.messages import InferRequest
from narsil_transport.queue import Queue

FEATURES = 26
QUEUED = (10, 100, 1000)
ROWS = (1, 100, 270)
# The ladder of the CPU, and what its launches take: about that of the reference model in float32.
LADDER = BucketLadder.from_rows(parse_rows(BUCKETS["cpu"]), ids_per_row=4 * FEATURES)
COSTS = {b: LaunchCost(130_000 + 7400 * b.rows, 150_000 + 8000 * b.rows) for b in LADDER.buckets}
# Its features are never looked at.
NOTHING = np.empty((0, 0), np.float32)
REQUEST = InferRequest(1, "", None, None, NOTHING, None, None, None)


def main() -> None:
    options = machine.parser(__doc__).parse_args()
    report = machine.Report("decisions of the batcher")
    rounds = 20 if options.quick else 200
    rng = np.random.default_rng(machine.SEED)
    deadlines: tuple[tuple[str, Callable[[], int | None]], ...] = (
        ("none", lambda: None),
        ("far", lambda: int(rng.integers(10**12, 2 * 10**12))),
        ("near", lambda: int(rng.integers(1_000_000, 8_000_000))),
    )
    table: list[dict[str, object]] = [
        {"deadlines": name, "queued": queued, "rows": rows} | measured(queued, rows, deadline_ns, rounds)
        for name, deadline_ns in deadlines
        for queued in QUEUED
        for rows in ROWS
    ]
    report.table("us, median of rounds; choose is the part of take that decides", table)
    plans_ms = [timed(LaunchPlan, LADDER, CostModel(COSTS)) / 1e3 for _ in range(rounds)]
    plan: dict[str, object] = {
        "buckets": len(LADDER.buckets),
        "largest": LADDER.rows_max,
        "ms": float(np.median(plans_ms)),
    }
    report.table("ms to plan anew, which drift of the costs makes it do at most ten times a second", [plan])
    report.write(options.json)


def measured(queued: int, rows: int, deadline_ns: Callable[[], int | None], rounds: int) -> dict[str, float]:
    """Medians over rounds in which a queue of this many requests loses a batch and is filled up again."""
    cost = CostModel(COSTS)
    batcher = Batcher(ladder=LADDER, cost=cost, mode=Mode.BATCH, queue_rows_max=10**9)
    refuse_late = partial(batcher.refuse_late, now_ns=0, free_ns=(0,))
    times: dict[str, list[float]] = {"add": [], "refuse_late": [], "choose": [], "take": []}
    # Of a launched batch nothing is freed before its answers, so none of that is part of taking it.
    batch: list[object] = []
    for _ in range(rounds):
        while batcher.pending_requests < queued - 1:
            batcher.add(entered(rows, deadline_ns()))
        times["add"].append(timed(batcher.add, entered(rows, deadline_ns())))
        times["refuse_late"].append(timed(refuse_late, entered(rows, deadline_ns() or 10**9)))
        batch.clear()
        times["take"].append(timed(lambda: batch.append(batcher.take(0))))
        plan, waiting = LaunchPlan(LADDER, cost), Queue()
        for _ in range(queued):
            request = entered(rows, deadline_ns())
            waiting.insert(Piece(request, 0, request.rows, request.ids), request.due_ns, plan)
        times["choose"].append(timed(choose, waiting, plan, 0))
    return {name: float(np.median(values)) for name, values in times.items()}


def entered(rows: int, deadline_ns: int | None) -> Admitted:
    due_ns = PATIENCE_NS if deadline_ns is None else deadline_ns
    return Admitted(None, REQUEST, 0, deadline_ns, rows, rows * FEATURES, FEATURES, None, due_ns, False)


def timed(call: Callable[..., object], *arguments: object) -> float:
    """Microseconds that one call took."""
    begin_ns = time.perf_counter_ns()
    call(*arguments)
    return (time.perf_counter_ns() - begin_ns) / 1e3


if __name__ == "__main__":
    main()

"""Gates of the forward and of the batcher, in this process."""

import time
from collections.abc import Callable

from benchmarks import machine
from benchmarks.contenders import Contest
from benchmarks.deciding import measured
from narsil_graph.model.weights import Model

ROWS = 100
ROUNDS, BURST = 24, 12
# A server under load has some tens of requests waiting.
QUEUED, QUEUED_MANY = 50, 1000
DECISION_ROUNDS, DECISIONS = 12, 20
WORK_STEPS = 500
# Without it torch computes bfloat16 as float32, and the bound means nothing.
BF16 = "avx512_bf16"
Ratios = dict[str, list[float]]


def forward_ratios(model: Model, *, quick: bool) -> Ratios:
    """Times the eager forward: how much faster the plans score 100 rows on one thread."""
    plans = ["f32"]
    if BF16 in machine.instructions():
        plans.append("bf16")
    else:
        print(f"# plan-bf16 is left out: this processor has no {BF16}")
    contest = Contest(model, ["eager", *plans], threads=1)
    taken_us, _ = contest.measure(ROWS, rounds=2 if quick else ROUNDS, burst=BURST)
    eager_us = taken_us.pop("eager")
    return {f"plan-{name}": over(eager_us, values) for name, values in taken_us.items()}


def decision_ratios(*, quick: bool) -> Ratios:
    """A batch chosen and taken: beside a fixed piece of interpreted work, and with twenty times as many waiting."""
    ratios: Ratios = {"decision": [], "decision-growth": []}
    for _ in range(2 if quick else DECISION_ROUNDS):
        work_us = python_work_us()
        few = _take_us(QUEUED)
        ratios["decision"].append(few / work_us)
        ratios["decision-growth"].append(_take_us(QUEUED_MANY) / few)
    return ratios


def _take_us(queued: int) -> float:
    no_deadline: Callable[[], int | None] = lambda: None  # noqa: E731
    return measured(queued, ROWS, no_deadline, DECISIONS)["take"]


def python_work_us() -> float:
    """What this machine's interpreter needs for ``WORK_STEPS`` steps of integers and a dictionary; the best of some."""
    best_us = float("inf")
    for _ in range(DECISIONS):
        begin_ns = time.perf_counter_ns()
        counts: dict[int, int] = {}
        for step in range(WORK_STEPS):
            counts[step % 16] = counts.get(step % 16, 0) + step
        best_us = min(best_us, (time.perf_counter_ns() - begin_ns) / 1e3)
    return best_us


def over(above: list[float], below: list[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]

"""A against another A first, then B against A."""

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

import numpy as np

from narsil_graph.bench.agreement import REQUESTS, Agreement, agreement, scored
from narsil_graph.bench.blocks import BLOCKS_PER_ROUND, Load, Round, Side, run_rounds
from narsil_graph.bench.bootstrap import ROUNDS_MIN, Interval, ratio_interval
from narsil_graph.bench.driver import closed_loop
from narsil_graph.bench.log import Floats64
from narsil_graph.bench.requests import RequestPool
from narsil_graph.bench.variants import Running, Variant
from narsil_graph.bench.verdict import RATIOS
from narsil_graph.errors import UsageFailure
from narsil_graph.model.spec import ModelSpec
from narsil_graph.simulation.arrivals import Sizes

# The check takes a third of the time: its interval may be that much wider than the verdict's.
CHECK_SHARE = 1 / 3
WARM_UP_S = 0.5
# Of Poisson arrivals, on average: of so few it happens once in a million rounds that neither block has any.
BLOCK_REQUESTS_MIN = 7
# Of an open loop: more wait here than any server by its defaults takes of one client.
OPEN_IN_FLIGHT_MAX = 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """`seconds` in all, start-ups included; longer where these leave too little for the fewest rounds there must be.

    The servers have so many `starts`: one, or enough to be a sample of their own.
    With `pin`, servers that are started run on all processors but the first, which is the asking thread's.
    """

    load: Load
    sizes: Sizes
    seed: int
    seconds: float
    starts: int = 1
    pin: bool = True

    def __post_init__(self) -> None:
        if self.starts != 1 and self.starts < ROUNDS_MIN:
            raise UsageFailure(f"want --starts 1, or {ROUNDS_MIN} at least: fewer do not show how starts differ")
        of_block = self.load.block_s * (self.load.rate or np.inf)
        if of_block < BLOCK_REQUESTS_MIN:
            raise UsageFailure(
                f"a block of --block-ms {self.load.block_s * 1000:g} has {of_block:.2g} requests at --rate "
                f"{self.load.rate:g}: want {BLOCK_REQUESTS_MIN} at least"
            )
        rounds = max(ROUNDS_MIN, self.starts)
        least_s = rounds * self.load.round_s / min(CHECK_SHARE, 1 - CHECK_SHARE)
        if self.seconds < least_s:
            raise UsageFailure(
                f"want --seconds {least_s:.0f} at least, for {rounds} rounds twice, or a shorter --block-ms"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Phase:
    """Rounds of one pair of variants, by start of the servers."""

    starts: Sequence[Sequence[Round]]
    agreement: Agreement | None

    @property
    def rounds(self) -> list[Round]:
        return [one for rounds in self.starts for one in rounds]

    @property
    def blocks(self) -> int:
        """Of each variant."""
        return BLOCKS_PER_ROUND // 2 * len(self.rounds)

    def log_ratios(self, name: str) -> Floats64:
        """One of each round; of several starts one of each, for rounds of one start may err alike."""
        found = [[one.log_ratios()[name] for one in rounds if name in one.log_ratios()] for rounds in self.starts]
        return np.array(found[0] if len(found) == 1 else [np.mean(ratios) for ratios in found if ratios])

    def intervals(self, seed: int) -> dict[str, Interval]:
        """Of all ratios that every round has."""
        known = [name for name in RATIOS if all(name in one.log_ratios() for one in self.rounds)]
        return {name: ratio_interval(self.log_ratios(name), seed) for name in known}

    def statuses(self, which: str) -> Counter[str]:
        """How the requests of variant `a` or `b` ended."""
        counted: Counter[str] = Counter()
        for one in self.rounds:
            counted.update((one.a if which == "a" else one.b).statuses)
        return counted


def compare(a: Variant, b: Variant, plan: Plan, tell: Callable[[str], None]) -> tuple[Phase, Phase]:
    """A against another A, and A against B, in turn for each start. UsageFailure where they take different inputs."""
    rng = np.random.default_rng(plan.seed)
    end_s = time.monotonic() + plan.seconds
    rounds_min = ROUNDS_MIN if plan.starts == 1 else 1
    checks: list[list[Round]] = []
    found: list[list[Round]] = []
    agreed: Agreement | None = None

    def run(sides: tuple[Side, Side], pool: RequestPool, until_s: float) -> list[Round]:
        return run_rounds(sides, pool, plan.load, rng, rounds_min=rounds_min, until_s=until_s, tell=tell)

    for left in range(plan.starts, 0, -1):
        begin_s = time.monotonic()
        until_s = begin_s + (end_s - begin_s) / left
        with ExitStack() as stack:
            tell("starting A, A again and B")
            pool, (first, again, other) = _started(stack, (a, a, b), plan)
            for side in (first, again, other):
                closed_loop(side.subject, pool, plan.load.in_flight, WARM_UP_S)
            if agreed is None:
                scores = (scored(side.subject, pool, REQUESTS, plan.load.in_flight) for side in (first, other))
                agreed = agreement(*scores)
            begin_s = time.monotonic()
            checks.append(run((first, again), pool, begin_s + CHECK_SHARE * (until_s - begin_s)))
            found.append(run((first, other), pool, until_s))
    return Phase(checks, None), Phase(found, agreed)


def _started(
    stack: ExitStack, variants: tuple[Variant, Variant, Variant], plan: Plan
) -> tuple[RequestPool, tuple[Side, Side, Side]]:
    """Ended with `stack`. From here to there this thread is on its own processor."""
    with _processors(servers=True, pin=plan.pin):
        a, again, b = (stack.enter_context(variant.start()) for variant in variants)
    stack.enter_context(_processors(servers=False, pin=plan.pin))
    pool = RequestPool(_spec(a.spec, b.spec), plan.sizes, plan.seed)
    load = plan.load
    return pool, (_side("A", a, load, stack), _side("A again", again, load, stack), _side("B", b, load, stack))


def _side(name: str, running: Running, load: Load, stack: ExitStack) -> Side:
    in_flight = load.in_flight if load.rate is None else max(load.in_flight, OPEN_IN_FLIGHT_MAX)
    subject = stack.enter_context(closing(running.started.connect(in_flight)))
    return Side(name, subject, running.started.pids)


def _spec(a: ModelSpec, b: ModelSpec) -> ModelSpec:
    if _inputs(a) != _inputs(b):
        raise UsageFailure(f"A and B take different inputs: {_inputs_text(a)}, and {_inputs_text(b)}")
    return a


def _inputs(spec: ModelSpec) -> tuple[int, list[int]]:
    return len(spec.dense_features), [table.rows for table in spec.feature_tables]


def _inputs_text(spec: ModelSpec) -> str:
    dense, tables = _inputs(spec)
    return f"{dense} dense values and {len(tables)} ids below {min(tables)}-{max(tables)}"


@contextmanager
def _processors(*, servers: bool, pin: bool) -> Generator[None]:
    """This thread, and so what it starts, on the processors of servers or on that of the asking thread."""
    before = os.sched_getaffinity(0)
    first, *others = sorted(before)
    if pin and others:
        os.sched_setaffinity(0, others if servers else {first})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

"""The servers of benchmarks/against.py, side by side: connected, checked, and measured in blocks that take turns."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import SEED, ratio_text
from narsil_graph.bench.agreement import scored
from narsil_graph.bench.cpu_seconds import cpu_seconds
from narsil_graph.bench.log import Log
from narsil_graph.bench.requests import RequestPool
from narsil_graph.bench.subject import Floats, Rows, Subject
from narsil_graph.bench.variants import family, parse_variant
from narsil_graph.bench.verdict import ROUNDING
from narsil_graph.engine.exact import exact_scores
from narsil_graph.errors import Failure, UsageFailure
from narsil_graph.model.weights import Model
from narsil_transport.messages import InferRequest

ALONE, BUSY = 1, 16
CLOSED = (ALONE, 4, BUSY)
PRECISIONS = ("f32", "bf16")
# Beyond what a load has under way unless it drowns its server.
IN_FLIGHT_MAX = 64
# All under way at once, so that those that are gathered into batches are among them.
CHECKED = 16
# What bfloat16 costs (benchmarks/RESULTS.md: 0.0024), and no other model; everybody else computes in float32.
ERROR_MAX = {"bf16": 0.01}

Load = Callable[..., Log]


@dataclass(frozen=True, slots=True)
class Side:
    name: str
    subject: Subject
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Failure where no request was answered."""

    log: Log
    cpu_s: float

    def __post_init__(self) -> None:
        if not self.log.rows_ok:
            raise Failure(f"no request of a block was answered: {', '.join(sorted(set(self.log.statuses)))}")

    def value(self, what: str) -> float:
        """Of what was answered."""
        latency_us = self.log.latency_us[self.log.ok]
        match what:
            case "samples/s":
                return self.log.samples_per_s
            case "p50 us":
                return float(np.quantile(latency_us, 0.5))
            case "p99 us":
                return float(np.quantile(latency_us, 0.99))
        raise KeyError(what)


@dataclass(frozen=True, slots=True)
class Measured:
    """The blocks of each side by its name, round by round; the first side is what the others are compared with."""

    blocks: dict[str, list[Block]]

    def joined(self) -> dict[str, Log]:
        return {name: Log.joined([block.log for block in blocks]) for name, blocks in self.blocks.items()}

    def ratio(self, name: str, what: str) -> str:
        """Over the first side's, round by round: median and 95% interval; "-" of the first."""
        first = next(iter(self.blocks))
        if name == first:
            return "-"
        return ratio_text(*([block.value(what) for block in self.blocks[side]] for side in (name, first)))

    def rows(self, load: str) -> list[dict[str, object]]:
        """A table's, of one load."""
        found: list[dict[str, object]] = []
        for name, log in self.joined().items():
            latency_us = log.latency_us[log.ok]
            cpu_s = sum(block.cpu_s for block in self.blocks[name])
            found.append(
                {
                    "load": load,
                    "server": name,
                    "samples/s": log.samples_per_s,
                    "p50 us": float(np.quantile(latency_us, 0.5)),
                    "p99 us": float(np.quantile(latency_us, 0.99)),
                    "CPU s/M rows": cpu_s / log.rows_ok * 1e6,
                    "failed": int((~log.ok).sum()),
                    **{f"times its {what}": self.ratio(name, what) for what in ("samples/s", "p50 us", "p99 us")},
                }
            )
        return found


@contextmanager
def connected(name: str, text: str, model: Path) -> Generator[Side]:
    """The server that ``text`` names, as `bench ab` reads it, of ``model``. Failure where it does not start."""
    with parse_variant(text, model).start() as running:
        subject = running.started.connect(IN_FLIGHT_MAX)
        try:
            yield Side(name, subject, running.started.pids)
        finally:
            subject.close()


def error_of(side: Side, model: Model, pool: RequestPool) -> float:
    """The largest difference of a score from float64 arithmetic.

    Failure where a request is not answered, or where it is beyond rounding: that is another model, however fast.
    """
    found = scored(side.subject, pool, CHECKED, CHECKED)
    if len(found) < CHECKED:
        raise Failure(f"{side.name} did not score {CHECKED - len(found)} of {CHECKED} requests")
    largest = max(_error(side, model, pool[number], scores) for number, scores in found.items())
    if not largest <= ERROR_MAX.get(side.name, ROUNDING):
        raise Failure(f"{side.name} does not compute this model: a score is wrong by {largest:.2g}")
    return largest


def _error(side: Side, model: Model, rows: Rows, scores: Floats) -> float:
    if len(scores) != len(rows):
        raise Failure(f"{side.name} answered {len(rows)} rows with {len(scores)} scores")
    request = InferRequest(0, "", None, None, rows.dense, rows.ids, None, None)
    return float(np.abs(scores - exact_scores(model, request)).max())


def measure(sides: Sequence[Side], pool: RequestPool, load: Load, rounds: int) -> Measured:
    """``load(subject, pool)`` once on each side to warm it, then each round on every side, in shuffled order."""
    order = list(range(len(sides)))
    rng = np.random.default_rng(SEED)
    blocks: dict[str, list[Block]] = {side.name: [] for side in sides}
    for side in sides:
        load(side.subject, pool)
    for _ in range(rounds):
        rng.shuffle(order)
        for place in order:
            side = sides[place]
            before_s = _cpu_s(side)
            log = load(side.subject, pool)
            used_s = sum(now_s - before_s.get(pid, 0.0) for pid, now_s in _cpu_s(side).items())
            blocks[side.name].append(Block(log, used_s))
    return Measured(blocks)


def _cpu_s(side: Side) -> dict[int, float]:
    """Seconds so far by process, of those that there are now: Ray, for one, replaces its HAProxy while it serves."""
    found: dict[int, float] = {}
    for pid in family(side.pids[0]):
        with suppress(UsageFailure):
            found[pid] = cpu_seconds([pid])
    return found

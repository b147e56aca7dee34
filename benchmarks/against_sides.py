"""The servers of benchmarks/against.py, side by side: connected, checked, and measured in blocks that take turns."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import SEED, ratio_text
from narsil_graph.bench.cpu_seconds import cpu_seconds
from narsil_graph.bench.log import Log
from narsil_graph.bench.requests import RequestPool
from narsil_graph.bench.subject import OK, Done, Subject
from narsil_graph.bench.variants import parse_variant
from narsil_graph.engine.exact import exact_scores
from narsil_graph.errors import Failure
from narsil_graph.model.weights import Model
from narsil_transport.messages import InferRequest

ALONE, BUSY = 1, 16
CLOSED = (ALONE, 4, BUSY)
PRECISIONS = ("f32", "bf16")
# Beyond what a load has under way unless it drowns its server.
IN_FLIGHT_MAX = 64
CHECKED = 8
ANSWERED_WITHIN_S = 10.0

Load = Callable[..., Log]


@dataclass(frozen=True, slots=True)
class Side:
    name: str
    subject: Subject
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Block:
    log: Log
    cpu_s: float

    def value(self, what: str) -> float:
        """Of what was answered. Failure where nothing was."""
        if not self.log.rows_ok:
            raise Failure(f"no request of a block was answered: {sorted(set(self.log.statuses))}")
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
    """The largest difference of a score from float64 arithmetic. Failure where a request is not answered."""
    largest = 0.0
    for number in range(CHECKED):
        rows = pool[number]
        if not side.subject.submit(number, rows):
            raise Failure(f"{side.name} has no room for one request")
        done = _answer(side)
        if done.status != OK or done.scores is None:
            raise Failure(f"{side.name} did not score a request: {done.status}")
        request = InferRequest(number, "", None, None, rows.dense, rows.ids, None, None)
        largest = max(largest, float(np.abs(done.scores - exact_scores(model, request)).max()))
    return largest


def _answer(side: Side) -> Done:
    until = time.monotonic() + ANSWERED_WITHIN_S
    # A poll may end early.
    while (left_s := until - time.monotonic()) > 0:
        for done in side.subject.poll(left_s):
            return done
    raise Failure(f"{side.name} did not answer in {ANSWERED_WITHIN_S:.0f} s")


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
            before_s = cpu_seconds(side.pids)
            log = load(side.subject, pool)
            blocks[side.name].append(Block(log, cpu_seconds(side.pids) - before_s))
    return Measured(blocks)

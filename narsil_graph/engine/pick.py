"""Choosing a stage's kernel by timing the candidates on the very buffers that they will serve."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDS = 5
# A round lasts at least this long, so that a clock reading (50 ns) and a cold cache line do not decide.
ROUND_NS_MIN = 100_000
PROBED_ROWS_MIN = 100
Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to compute a stage: ``run`` reads and writes buffers that are fixed for good."""

    name: str
    run: Call


def fastest(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate with the least time in its best round; rounds are interleaved so that noise hits all alike."""
    if len(candidates) == 1:
        return candidates[0]
    repeats = [_repeats(candidate.run) for candidate in candidates]
    best_ns = [float("inf")] * len(candidates)
    for _ in range(ROUNDS):
        for number, candidate in enumerate(candidates):
            best_ns[number] = min(best_ns[number], _round_ns(candidate.run, repeats[number]))
    return candidates[best_ns.index(min(best_ns))]


def _repeats(run: Call) -> int:
    run()
    return int(ROUND_NS_MIN // max(_round_ns(run, 1), 1.0)) + 1


def _round_ns(run: Call, repeats: int) -> float:
    begin = time.perf_counter_ns()
    for _ in range(repeats):
        run()
    return (time.perf_counter_ns() - begin) / repeats


def agreeing(candidates: Sequence[Candidate], *, source: Tensor, target: Tensor, tolerance: float) -> list[Candidate]:
    """The candidates that may serve: as accurate as the first within ``tolerance`` and blind to a row's position.

    ``source`` [rows, ...] is set to random rows, and then to the same rows moved on by 1, 2, 3 places and by half: a
    candidate must write the same bits for a row into ``target`` wherever it lies, else a request's scores would depend
    on where the batcher put it (kernels that work on rows in blocks often treat the last rows differently). The error
    is relative to the largest value of the first candidate's.
    """
    generator = torch.Generator().manual_seed(len(source))
    rows = _random_like(source, generator)
    source.copy_(rows)
    candidates[0].run()
    reference = target.double()
    scale = max(float(reference.abs().max()), 1.0)
    kept: list[Candidate] = []
    for candidate in candidates:
        source.copy_(rows)
        target.fill_(float("nan"))  # what a candidate fails to write must not pass
        candidate.run()
        error = float((target.double() - reference).abs().max()) / scale
        if error <= tolerance and _blind_to_position(candidate, generator, source, target):
            kept.append(candidate)
    return kept


def _blind_to_position(candidate: Candidate, generator: torch.Generator, source: Tensor, target: Tensor) -> bool:
    # Two orders of a short sum often agree by chance, so that a few rows prove little.
    for _ in range(-(-PROBED_ROWS_MIN // len(source))):
        rows = _random_like(source, generator)
        source.copy_(rows)
        candidate.run()
        found = target.clone()
        for places in sorted({1, 2, 3, len(rows) // 2}):
            source.copy_(rows.roll(places, 0))
            candidate.run()
            if not torch.equal(target, found.roll(places, 0)):
                return False
    return True


def _random_like(source: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(source.shape, generator=generator).mul_(2).sub_(1)


def in_turn(calls: Sequence[Call]) -> Call:
    """One call that makes all of them, in order."""

    def run() -> None:
        for call in calls:
            call()

    return run

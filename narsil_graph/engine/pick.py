"""Choosing a stage's kernel by timing the candidates on the very buffers that they will serve."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDS = 5
# A round lasts at least this long, so that a clock reading (50 ns) and a cold cache line do not decide.
ROUND_NS_MIN = 100_000
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

    ``source`` [rows, ...] is set to one random row everywhere; a candidate must then write the same bits in every row
    of ``target`` (else a request's scores would depend on where the batcher put it), within ``tolerance`` of the
    first candidate's relative to the largest value. The first is kept even if it fails, since something must serve;
    the doctor reports it.
    """
    generator = torch.Generator().manual_seed(len(target))
    source.copy_(torch.rand(source.shape[1:], generator=generator).expand(source.shape))
    candidates[0].run()
    reference = target[0].double()
    scale = max(float(reference.abs().max()), 1.0)
    kept: list[Candidate] = []
    for candidate in candidates:
        target.fill_(torch.nan)  # so that what a candidate does not write is seen
        candidate.run()
        same_rows = bool((target == target[0]).all())
        error = float((target[0].double() - reference).abs().max()) / scale
        if same_rows and error <= tolerance:
            kept.append(candidate)
    return kept or [candidates[0]]


def in_turn(calls: Sequence[Call]) -> Call:
    """One call that makes all of them, in order."""

    def run() -> None:
        for call in calls:
            call()

    return run

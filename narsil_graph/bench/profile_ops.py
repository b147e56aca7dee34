"""The operators or kernels of a launch, by torch's profiler, and the trace of them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from narsil_graph.bench.profile import LaunchOps, Op
from narsil_graph.bench.profile_spine import Scope
from narsil_graph.errors import Failure

# Watched but not counted, while the profiler makes what it makes once.
WARM_LAUNCHES = 30
# The operator that looks rows up has a score of operands; beyond these the shapes tell nothing apart.
SHAPES_MAX = 3
# The largest that glibc learns from.
HEAP_BLOCK_BYTES = 31 << 20
Ask = Callable[[Scope], float]


def launch_ops(ask: Ask, *, device: torch.device, launches: int, kernels: str, trace: Path | None) -> LaunchOps:
    """Of so many launches, of which ``ask`` makes one inside the scopes that it is given and returns its us.

    Also writes a trace for a browser's trace viewer. Failure where that cannot be written.
    """
    on_gpu = device.type == "cuda"
    # What the profiler keeps pushes each launch's largest tensor on to fresh pages, and an operator of 20 us took 600:
    # so the heap grows in a watch that is not timed, which also has the shapes, and glibc, which has seen so large a
    # block freed, does not give it back.
    torch.empty(HEAP_BLOCK_BYTES, dtype=torch.uint8)
    shapes = _shapes(_watched(ask, launches, on_gpu=on_gpu, shapes=True)[0], on_gpu)
    profiler, whole_us = _watched(ask, launches, on_gpu=on_gpu, shapes=False)
    if trace is not None:
        try:
            profiler.export_chrome_trace(str(trace))
        except (OSError, RuntimeError) as error:
            raise Failure(f"cannot write {trace}: {error}") from None
    ops = mean_ops(_events(profiler, on_gpu), shapes, launches=launches)
    return LaunchOps(kernels, launches, whole_us / launches, ops)


def _watched(ask: Ask, launches: int, *, on_gpu: bool, shapes: bool) -> tuple[profile, float]:
    """A profiler that has watched so many launches, and the us of all of them."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    plan = schedule(wait=0, warmup=WARM_LAUNCHES, active=launches, repeat=1)
    whole_us = 0.0
    with profile(activities=activities, schedule=plan, record_shapes=shapes, acc_events=True) as profiler:
        for number in range(WARM_LAUNCHES + launches):
            launch_us = ask(record_function)
            if number >= WARM_LAUNCHES:
                whole_us += launch_us
            profiler.step()
    return profiler, whole_us


def _events(profiler: profile, on_gpu: bool) -> list[tuple[str, float]]:
    """(operator, us without those that it calls), in the order of their beginnings."""
    return [
        (event.name, event.self_device_time_total if on_gpu else event.self_cpu_time_total)
        for event in _ran(profiler, on_gpu)
    ]


def _shapes(profiler: profile, on_gpu: bool) -> list[tuple[str, str]]:
    """(operator, shapes of its first operands), in the order of their beginnings."""
    found: list[tuple[str, str]] = []
    for event in _ran(profiler, on_gpu):
        shapes: list[list[int]] = event.input_shapes or []
        found.append((event.name, " ".join("x".join(map(str, shape)) for shape in shapes[:SHAPES_MAX] if shape)))
    return found


def _ran(profiler: profile, on_gpu: bool) -> list[Any]:
    """Operators; on a GPU kernels and copies, for what launches them runs beside them."""
    # Of types that torch does not publish.
    events: Iterable[Any] = profiler.events() or ()  # type: ignore[no-untyped-call]
    found = [event for event in events if not event.is_user_annotation and (event.device_type.name == "CUDA") == on_gpu]
    return sorted(found, key=lambda event: event.time_range.start)


def mean_ops(
    events: Sequence[tuple[str, float]], shapes: Sequence[tuple[str, str]], *, launches: int
) -> tuple[Op, ...]:
    """Means over launches of operators apart by name and shapes; by name alone where ``shapes`` are of other calls."""
    same = [name for name, _ in events] == [name for name, _ in shapes]
    spent_us: dict[tuple[str, str], list[float]] = {}
    for place, (name, us) in enumerate(events):
        spent_us.setdefault((name, shapes[place][1] if same else ""), []).append(us)
    return tuple(Op(name, shape, len(us) / launches, sum(us) / launches) for (name, shape), us in spent_us.items())

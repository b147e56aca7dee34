"""Where a request's time goes: its stages, and the operators or kernels of its launch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np

# An operator below this share of the launch is in the line of all the others.
SHARE_MIN = 0.01


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the round trip, us."""

    name: str
    us_p50: float
    us_p99: float

    @classmethod
    def of(cls, name: str, taken_us: Sequence[float]) -> Self:
        """Of every request's time in it; there is at least one."""
        return cls(name, float(np.percentile(taken_us, 50)), float(np.percentile(taken_us, 99)))


@dataclass(frozen=True, slots=True)
class Op:
    """An operator or kernel without those that it calls: on what shapes, how often and how long in a launch."""

    name: str
    shapes: str
    calls: float
    us: float


@dataclass(frozen=True, slots=True)
class LaunchOps:
    """The operators of a launch that takes ``profiled_us`` while they are watched; means over ``launches``."""

    kernels: str
    launches: int
    profiled_us: float
    ops: tuple[Op, ...]

    def lines(self) -> list[str]:
        """A table, the longest first; last what ran outside any operator: numpy, Python and the profiler itself."""
        whole = max(self.profiled_us, sum(op.us for op in self.ops))
        shown = sorted((op for op in self.ops if op.us >= SHARE_MIN * whole), key=lambda op: -op.us)
        few = [op for op in self.ops if op.us < SHARE_MIN * whole]
        rows = [(op.name, op.shapes, f"{op.calls:.4g}", op.us) for op in shown]
        if few:
            rows.append((f"{len(few)} others", "", f"{sum(op.calls for op in few):.4g}", sum(op.us for op in few)))
        rows.append(("outside any of them", "", "", whole - sum(op.us for op in self.ops)))
        name_width = max(len(name) for name, *_ in rows)
        shape_width = max(len(shapes) for _, shapes, *_ in rows)
        return [
            f"launch: {self.kernels}; {self.profiled_us:.1f} us while watched, mean of {self.launches}",
            f"{'op or kernel':<{name_width}}  {'on shapes':<{shape_width}}  calls        us  share",
            *(
                f"{name:<{name_width}}  {shapes:<{shape_width}}  {calls:>5}  {us:>8.1f}  {us / whole:>5.1%}"
                for name, shapes, calls, us in rows
            ),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Of requests of so many rows, one at a time. ``stages`` are in order and make up the round trip."""

    subject: str
    rows: int
    requests: int
    stages: tuple[Stage, ...]
    round_trip: Stage
    launch: LaunchOps | None

    @classmethod
    def of(
        cls, subject: str, rows: int, taken_us: Mapping[str, Sequence[float]], launch: LaunchOps | None = None
    ) -> Self:
        """Of every request's time in each stage."""
        whole_us = np.sum([*taken_us.values()], axis=0)
        return cls(
            subject=subject,
            rows=rows,
            requests=len(whole_us),
            stages=tuple(Stage.of(name, taken) for name, taken in taken_us.items()),
            round_trip=Stage.of("round trip", whole_us),
            launch=launch,
        )

    def text(self) -> str:
        """Tables for people. A share is of the sum of the stages' medians, which one stall somewhere does not move."""
        width = max(len(stage.name) for stage in self.stages)
        whole = sum(stage.us_p50 for stage in self.stages)
        lines = [
            f"{self.subject}, {self.requests} requests of {self.rows} rows, one at a time",
            f"{'stage':<{width}}    p50 us    p99 us   share",
            *(
                f"{stage.name:<{width}}  {stage.us_p50:>8.1f}  {stage.us_p99:>8.1f}  {stage.us_p50 / whole:>6.1%}"
                for stage in self.stages
            ),
            f"{self.round_trip.name:<{width}}  {self.round_trip.us_p50:>8.1f}  {self.round_trip.us_p99:>8.1f}",
        ]
        return "\n".join([*lines, *([] if self.launch is None else ["", *self.launch.lines()])])

    def to_dict(self) -> dict[str, object]:
        """A JSON-ready form."""
        return asdict(self)

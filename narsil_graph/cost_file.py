"""What launches and messages were measured to cost, as a file: for planning and simulating away from the machine."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narsil_graph.errors import Failure
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel, LaunchCost

FORMAT = "narsil-cost-1"
# What --buckets takes: beyond it a tool's tables would outgrow memory.
ROWS_MAX = 65536
# A launch or message of a quarter of an hour is a file of something else.
TIME_US_MAX = 1e9
TEXTS = ("model", "version", "machine", "device", "engine", "precision")


@dataclass(frozen=True, slots=True, kw_only=True)
class CostFile:
    """Costs of one model's version on one machine, by ``device``, ``engine``, ``precision`` and ``threads``.

    ``launches`` strictly increase in rows and never shrink in ids. ``request_us`` is what the loop spends on receiving
    and admitting a request, ``reply_us`` on answering one. ``shared_loop`` says that it is also the loop that computes
    a launch, so that neither happens meanwhile. Raises ValueError where a value is out of range.
    """

    model: str
    version: str
    machine: str
    device: str
    engine: str
    precision: str
    threads: int
    shared_loop: bool
    launches: tuple[tuple[Bucket, LaunchCost], ...]
    request_us: float
    reply_us: float

    def __post_init__(self) -> None:
        if self.ladder.rows_max > ROWS_MAX:
            raise ValueError(f"want buckets of at most {ROWS_MAX} rows, got {self.ladder.rows_max}")
        if self.threads < 1:
            raise ValueError(f"want at least one thread, got {self.threads}")
        for name, time_us in (("request_us", self.request_us), ("reply_us", self.reply_us)):
            if not 0 <= time_us <= TIME_US_MAX:
                raise ValueError(f"want {name} of 0 to {TIME_US_MAX:.0e}, got {time_us}")

    @property
    def ladder(self) -> BucketLadder:
        """The buckets that were measured."""
        return BucketLadder(tuple(bucket for bucket, _ in self.launches))

    def cost_model(self) -> CostModel:
        """A model of these costs, with nothing observed yet."""
        return CostModel(
            dict(self.launches),
            request_ns=round(self.request_us * 1e3),
            reply_ns=round(self.reply_us * 1e3),
        )

    def curve(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows of the measured buckets int64 [buckets], increasing, and their median microseconds float64."""
        rows = np.array([bucket.rows for bucket, _ in self.launches], np.int64)
        return rows, np.array([cost.median_ns for _, cost in self.launches], np.float64) / 1e3

    def check(self, version: str | None, machine: str | None) -> None:
        """A Failure where the costs are of another version of a model, or another machine; None is any."""
        for what, here, wanted in (("model version", self.version, version), ("machine", self.machine, machine)):
            if wanted is not None and here != wanted:
                raise Failure(
                    f"the cost file is of {what} {here}, not {wanted}: "
                    "measure again with narsil-graph doctor --save-cost"
                )

    def to_dict(self) -> dict[str, object]:
        """What the file holds."""
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in (*TEXTS, "threads", "shared_loop", "request_us", "reply_us")},
            "launches": [
                {
                    "rows": bucket.rows,
                    "ids": bucket.ids,
                    "median_us": cost.median_ns / 1e3,
                    "p99_us": cost.p99_ns / 1e3,
                }
                for bucket, cost in self.launches
            ],
        }

    def save(self, path: Path) -> None:
        """Write it to ``path``, replacing it as a whole; a Failure if that cannot be."""
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_text(json.dumps(self.to_dict(), indent=1) + "\n")
            partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise Failure(f"cannot write {path}: {error.strerror}") from None


def load_cost(path: Path) -> CostFile:
    """The costs at ``path``; a Failure says in one sentence what is wrong with the file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Failure(f"cannot read the costs {path}: {error.strerror}") from None
    try:
        fields: Any = json.loads(content.decode())
        if type(fields) is not dict or fields.get("format") != FORMAT:
            raise ValueError(f"it is not a JSON object of format {FORMAT}")
        launches = _of(fields, "launches", list)
        return CostFile(
            **{name: _of(fields, name, str) for name in TEXTS},
            threads=_of(fields, "threads", int),
            shared_loop=_of(fields, "shared_loop", bool),
            launches=tuple(_launch(entry) for entry in launches),
            request_us=_number(fields, "request_us"),
            reply_us=_number(fields, "reply_us"),
        )
    except (ValueError, RecursionError) as error:
        raise Failure(f"{path} is not a cost file that can be used: {error}") from None


def _launch(entry: object) -> tuple[Bucket, LaunchCost]:
    if not isinstance(entry, dict):
        raise ValueError("'launches' wants objects")
    bucket = Bucket(_of(entry, "rows", int), _of(entry, "ids", int))
    median_us, p99_us = _number(entry, "median_us"), _number(entry, "p99_us")
    try:
        return bucket, LaunchCost(round(median_us * 1e3), round(p99_us * 1e3))
    except ValueError as error:
        raise ValueError(f"bucket {bucket.rows}: {error}") from None


def _number(fields: Mapping[str, Any], name: str) -> float:
    number: Any = fields.get(name)
    # A NaN is refused too; JSON as Python reads it has them.
    if type(number) not in (int, float) or not abs(number) <= TIME_US_MAX:
        raise ValueError(f"{name!r} wants a number of microseconds")
    return float(number)


def _of(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    value: Any = fields.get(name)
    if type(value) is not kind:
        raise ValueError(f"{name!r} wants {'text' if kind is str else kind.__name__}")
    return value

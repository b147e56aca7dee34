"""What LoadGen's own log says of a run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

DETAIL = "mlperf_log_detail.txt"
_PREFIX = ":::MLLOG "
# Each scenario names its rate otherwise.
_RATES = ("result_qps_with_loadgen_overhead", "result_completed_samples_per_sec", "result_samples_per_second")


@dataclass(frozen=True, slots=True)
class RunResult:
    """LoadGen's verdict and figures. Its samples are our requests.

    `problems` names what kept the run from being valid. `within_slo` is whether the latency constraint held, without
    early stopping's doubt about so few queries; a scenario that has none holds it.
    """

    valid: bool
    within_slo: bool
    problems: tuple[str, ...]
    requests_per_s: float
    p50_us: float
    p90_us: float
    p99_us: float
    version: str

    def __post_init__(self) -> None:
        if not self.requests_per_s > 0:
            raise ValueError(f"want a rate above 0, got {self.requests_per_s}")

    @property
    def verdict(self) -> str:
        return "VALID" if self.valid else f"INVALID: {', '.join(self.problems)}"

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The last run that was logged in `folder`. Raises ValueError where the log has no result."""
        entries = _entries(folder / DETAIL)
        try:
            checks = {
                "latency": entries.get("result_perf_constraints_met", True),
                "minimum duration": entries["result_min_duration_met"],
                "minimum queries": entries["result_min_queries_met"],
                "early stopping": entries["early_stopping_met"],
                "no errors": entries["num_errors"] == 0,
            }
            valid = entries["result_validity"] == "VALID"
            rate = next(float(entries[name]) for name in _RATES if name in entries)
            p50_us, p90_us, p99_us = (entries[f"result_{q}.00_percentile_latency_ns"] / 1e3 for q in (50, 90, 99))
        except (KeyError, StopIteration):
            raise ValueError(f"{folder / DETAIL} has no result") from None
        problems = tuple(name for name, met in checks.items() if not met)
        version = str(entries.get("loadgen_version", "unknown"))
        return cls(valid, checks["latency"], problems, rate, p50_us, p90_us, p99_us, version)


def _entries(path: Path) -> dict[str, Any]:
    lines = (line.removeprefix(_PREFIX) for line in path.read_text().splitlines() if line.startswith(_PREFIX))
    return {entry["key"]: entry["value"] for entry in map(json.loads, lines)}

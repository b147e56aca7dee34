"""LoadGen's log is read as LoadGen means it."""

import json
from pathlib import Path

import pytest

from benchmarks.mlperf_log import DETAIL, RunResult

ENTRIES: dict[str, object] = {
    "loadgen_version": "6.0.17 @ d6147c7eb7",
    "result_validity": "VALID",
    "result_perf_constraints_met": True,
    "result_min_duration_met": True,
    "result_min_queries_met": True,
    "early_stopping_met": True,
    "num_errors": 0,
    "result_completed_samples_per_sec": 491.653,
    "result_50.00_percentile_latency_ns": 625546,
    "result_90.00_percentile_latency_ns": 1030032,
    "result_99.00_percentile_latency_ns": 2163877,
}


def logged(folder: Path, *, without: str = "", **changes: object) -> RunResult:
    entries = {key: value for key, value in (ENTRIES | changes).items() if key != without}
    lines = [":::MLLOG " + json.dumps({"key": key, "value": value, "time_ms": 1.0}) for key, value in entries.items()]
    (folder / DETAIL).write_text("\n".join(["what is no entry is skipped", *lines]))
    return RunResult.read(folder)


def test_valid_run_has_its_figures_in_microseconds(tmp_path: Path) -> None:
    result = logged(tmp_path)
    assert (result.verdict, result.requests_per_s, result.version) == ("VALID", 491.653, "6.0.17 @ d6147c7eb7")
    assert (result.p50_us, result.p90_us, result.p99_us) == (625.546, 1030.032, 2163.877)


@pytest.mark.parametrize("rate", ["result_qps_with_loadgen_overhead", "result_samples_per_second"])
def test_each_scenario_names_its_rate_otherwise(tmp_path: Path, rate: str) -> None:
    result = logged(tmp_path, without="result_completed_samples_per_sec", **{rate: 7.5})
    assert result.requests_per_s == 7.5


def test_invalid_run_says_which_rule_it_broke(tmp_path: Path) -> None:
    result = logged(tmp_path, result_validity="INVALID", result_perf_constraints_met=False, early_stopping_met=False)
    assert result.verdict == "INVALID: latency, early stopping"


def test_doubt_of_early_stopping_is_not_a_missed_latency(tmp_path: Path) -> None:
    result = logged(tmp_path, result_validity="INVALID", early_stopping_met=False)
    assert result.within_slo and not result.valid


def test_scenario_without_a_constraint_holds_it(tmp_path: Path) -> None:
    assert logged(tmp_path, without="result_perf_constraints_met").within_slo


def test_run_without_a_verdict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no result"):
        logged(tmp_path, without="result_validity")

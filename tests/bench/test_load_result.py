"""A log in numbers."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from narsil_graph.bench.cpu_seconds import cpu_seconds
from narsil_graph.bench.load_plot import plot
from narsil_graph.bench.load_result import STAGES, LoadResult, stages_of
from narsil_graph.bench.log import Log
from narsil_graph.bench.subject import OK, TIMEOUT, Done
from narsil_graph.errors import Failure, UsageFailure
from narsil_transport.messages import StageTimes

TIMES = StageTimes(10.0, 20.0, 300.0, 4.0, 340.0)


def log_of(latency_us: list[int], *, failed: int = 0, wait_us: int = 0, times: StageTimes | None = None) -> Log:
    """Requests of two rows, one a millisecond, sent `wait_us` late; the first `failed` time out."""
    log = Log()
    for place, taken_us in enumerate(latency_us):
        intended_ns = place * 1_000_000
        done_ns = intended_ns + taken_us * 1000
        done = (
            Done(place, done_ns, TIMEOUT) if place < failed else Done(place, done_ns, OK, None, times, "AB"[place % 2])
        )
        log.add(intended_ns=intended_ns, sent_ns=intended_ns + wait_us * 1000, rows=2, done=done)
    log.seconds = len(latency_us) / 1000
    return log


def test_percentiles_are_of_answered_requests() -> None:
    result = LoadResult.of(log_of([9_999_999, *range(1, 1001)], failed=1))
    assert result.latency is not None
    spread = result.latency
    assert (spread.p50, spread.p90, spread.p99, spread.p999, spread.max) == (500, 900, 990, 999, 1000)
    assert spread.mean == pytest.approx(500.5)
    assert result.statuses == {OK: 1000, TIMEOUT: 1}


def test_load_at_whose_end_nothing_was_answered_says_so() -> None:
    whole, broken = log_of([100] * 10), log_of([100] * 10)
    for status, done_ns in (("OVERLOADED", 500_000_000), (TIMEOUT, 2_600_000_000)):
        broken.add(intended_ns=0, sent_ns=0, rows=2, done=Done(10, done_ns, status))
    assert LoadResult.of(whole).silent_s == 0 and "silent" not in LoadResult.of(whole).text()
    assert LoadResult.of(broken).silent_s == pytest.approx(2.1)
    assert "silent    what was under way or due had no answer for the last 2.10 s" in LoadResult.of(broken).text()


def test_naive_latency_leaves_out_the_wait_to_be_sent() -> None:
    result = LoadResult.of(log_of([500] * 10, wait_us=100))
    assert result.latency is not None and result.naive is not None
    assert (result.latency.p50, result.naive.p50) == (500, 400)


def test_rates_are_of_the_intended_and_of_the_answered() -> None:
    result = LoadResult.of(log_of([50] * 100, failed=50))
    assert (result.offered_per_s, result.answered_per_s, result.rows_per_s) == pytest.approx((1000, 500, 1000))


@pytest.mark.parametrize(("failed", "expected"), [(0, 100), (9, 100), (11, None)])
def test_failed_request_is_later_than_any_promise(failed: int, expected: float | None) -> None:
    result = LoadResult.of(log_of([100] * 1000, failed=failed))
    assert result.slo_p99_us == expected
    assert result.meets(100) == (expected is not None)
    assert not result.meets(99)


def test_stages_add_up_to_the_latency() -> None:
    log = log_of([500] * 10, wait_us=60, times=TIMES)
    stages = stages_of(log)
    assert tuple(stages) == STAGES
    assert {name: float(times_us[0]) for name, times_us in stages.items()} == {
        "client": 60, "wire": 100, "queue": 10, "fill": 20, "replay": 300, "read": 4, "reply": 6,
    }  # fmt: skip
    assert sum(spread.mean for spread in LoadResult.of(log).stages.values()) == pytest.approx(500)


def test_server_that_tells_no_times_has_no_stages() -> None:
    result = LoadResult.of(log_of([500] * 10))
    assert result.stages == {}
    assert "replay" not in result.text()


def test_variants_are_counted_where_they_are_told() -> None:
    result = LoadResult.of(log_of([5] * 5))
    assert result.variants == {"A": 3, "B": 2}
    assert "3 A, 2 B" in result.text()


def test_cpu_seconds_are_per_million_answered_rows() -> None:
    assert LoadResult.of(log_of([5] * 100, failed=50), cpu_s=2.0).cpu_s_per_million_rows == pytest.approx(20_000)
    assert LoadResult.of(log_of([5] * 2, failed=2), cpu_s=2.0).cpu_s_per_million_rows is None


def test_histogram_can_be_read_again() -> None:
    result = LoadResult.of(log_of([100] * 99 + [50_000]))
    histogram = HdrHistogram.decode(result.hdr)
    assert histogram.get_total_count() == 100
    assert histogram.get_value_at_percentile(50) == 100
    assert histogram.get_max_value() == pytest.approx(50_000, rel=1e-3)


def test_latency_beyond_the_histogram_counts_as_its_longest() -> None:
    result = LoadResult.of(log_of([70_000_000]))
    assert HdrHistogram.decode(result.hdr).get_total_count() == 1
    assert result.latency is not None and result.latency.max == 70_000_000


def test_dict_is_json_and_text_names_what_failed() -> None:
    result = LoadResult.of(log_of([100] * 4, failed=1, times=TIMES))
    told = json.loads(json.dumps(result.to_dict()))
    assert told["latency"]["p99"] == 100
    assert set(told["stages"]) == set(STAGES)
    assert "failed    1 TIMEOUT" in result.text()


@pytest.mark.parametrize("log", [Log(), log_of([5, 5], failed=2)])
def test_load_without_answers_has_a_result(log: Log) -> None:
    result = LoadResult.of(log)
    assert result.latency is None and result.slo_p99_us is None and result.answered_per_s == 0
    assert "latency   -" in result.text()


def test_result_without_hdrhistogram_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdrh.histogram", None)
    with pytest.raises(Failure, match="bench needs hdrhistogram"):
        LoadResult.of(log_of([5]))


@pytest.mark.parametrize(
    "log", [log_of([*range(1, 300)], times=TIMES), log_of([5, 5, 5]), log_of([5], failed=1), Log()]
)
def test_every_log_can_be_drawn(log: Log, tmp_path: Path) -> None:
    plot(log, tmp_path / "load.png")
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")


def test_picture_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"cannot write .*: No such file"):
        plot(Log(), tmp_path / "nowhere" / "load.png")


@pytest.mark.parametrize(("count", "told"), [(9, 1), (10, 2), (99, 2), (100, 3), (999, 3), (1000, 4)])
def test_text_has_no_percentile_that_is_but_the_largest_of_few(count: int, told: int) -> None:
    lines = LoadResult.of(log_of([100] * count)).text().splitlines()
    line = next(line for line in lines if line.startswith("latency"))
    assert line.count("p") == told and line.endswith("max 100, mean 100 us")


def test_cpu_seconds_are_those_of_the_process_within_a_tick() -> None:
    before_s, told_s, after_s = time.process_time(), cpu_seconds([os.getpid()]), time.process_time()
    assert before_s <= told_s <= after_s
    assert cpu_seconds([]) == 0


def test_cpu_seconds_are_of_all_processes() -> None:
    before_s = cpu_seconds([os.getpid(), os.getppid()])
    assert before_s >= cpu_seconds([os.getppid()])
    assert cpu_seconds([os.getpid()] * 2) > cpu_seconds([os.getpid()])


@pytest.mark.parametrize("missing", [int(np.iinfo(np.int32).max), 2**22 + 1, 10**15])
def test_process_that_does_not_run_is_a_usage_failure(missing: int) -> None:
    with pytest.raises(UsageFailure, match=f"no process {missing}"):
        cpu_seconds([missing])

"""Drawn traffic has the rates and sizes that were asked for; a trace comes back as it was recorded."""

from pathlib import Path

import numpy as np
import pytest

from narsil_graph.errors import UsageFailure
from narsil_graph.simulation import arrivals
from narsil_graph.simulation.arrivals import Arrivals, bursty_ns, parse_sizes, poisson_ns
from narsil_graph.trace import Recorder, TraceHeader, read_trace
from narsil_transport.status import Status
from tests.simulation.scenes import arrivals_at, ladder_of


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def dispersion(times_ns: arrivals.Int64s, window_s: float, seconds: float) -> float:
    """Variance over mean of how many arrive in a window: 1 for a Poisson process."""
    counts = np.histogram(times_ns / 1e9, bins=int(seconds / window_s), range=(0, seconds))[0]
    return float(counts.var() / counts.mean())


def test_poisson_has_its_rate_and_spread() -> None:
    times_ns = poisson_ns(rng(), [(1000.0, 50.0)])
    assert len(times_ns) == pytest.approx(50_000, rel=0.02)
    assert np.all(np.diff(times_ns) >= 0) and times_ns[-1] < 50e9
    assert dispersion(times_ns, 0.05, 50.0) == pytest.approx(1.0, abs=0.15)


def test_rate_changes_with_the_pieces() -> None:
    times_s = poisson_ns(rng(), [(1000.0, 2.0), (20_000.0, 0.1), (1000.0, 2.0)]) / 1e9
    burst = (times_s >= 2.0) & (times_s < 2.1)
    assert np.count_nonzero(burst) == pytest.approx(2000, rel=0.1)
    assert np.count_nonzero(~burst) == pytest.approx(4000, rel=0.1)


def test_bursty_keeps_the_mean_rate_and_spreads_wider() -> None:
    times_ns = bursty_ns(rng(), 1000.0, 200.0)
    assert len(times_ns) == pytest.approx(200_000, rel=0.1)
    assert np.all(np.diff(times_ns) >= 0)
    assert dispersion(times_ns, 0.05, 200.0) > 10


@pytest.mark.parametrize(
    ("text", "mean", "least", "most"),
    [("constant:7", 7.0, 7, 7), ("lognormal:100:0.5", 113.3, 5, 1500), ("lognormal:100:1:200", 111.3, 1, 200),
     ("mlperf", 270.0, 100, 700)],
)  # fmt: skip
def test_sizes_have_their_mean_and_range(text: str, mean: float, least: int, most: int) -> None:
    rows = parse_sizes(text)(rng(), 100_000)
    assert rows.mean() == pytest.approx(mean, rel=0.02)
    assert least <= rows.min() and rows.max() <= most


def test_mean_of_the_mlperf_shape_is_the_benchmarks() -> None:
    assert sum(arrivals.MLPERF_SHARES) == pytest.approx(1.0)
    assert float(arrivals.MLPERF_ROWS @ arrivals.MLPERF_SHARES) == pytest.approx(270.0)


@pytest.mark.parametrize(
    "text", ["constant", "constant:0", "constant:x", "lognormal:100", "lognormal:0:1", "lognormal:100:nan",
             "lognormal:100:1:0", "mlperf:1", ""],
)  # fmt: skip
def test_sizes_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageFailure, match="want --sizes constant:ROWS"):
        parse_sizes(text)


def recorded(path: Path, times_us: list[int]) -> Arrivals:
    header = TraceHeader(model="m", version="v", machine="here", ladder=ladder_of(8), started_unix_ns=0)
    recorder = Recorder(path, header=header, size_mib_max=1, began_ns=0)
    for number, time_us in enumerate(times_us):
        recorder.record(
            arrival_ns=time_us * 1000, rows=number + 1, ids=3 * number, deadline_us=500, latency_us=9,
            status=Status.OVERLOADED, bulk=number == 1,
        )  # fmt: skip
    recorder.close()
    return Arrivals.recorded(read_trace(path))


def test_trace_is_replayed_from_its_first_arrival(tmp_path: Path) -> None:
    found = recorded(tmp_path / "trace", [70, 20, 30])
    assert found.arrival_ns.tolist() == [0, 10_000, 50_000]
    assert found.rows.tolist() == [2, 3, 1]
    assert found.ids.tolist() == [3, 6, 0]
    assert found.deadline_us.tolist() == [500] * 3
    assert found.bulk.tolist() == [True, False, False]


def test_scaled_traffic_is_the_same_requests_faster(tmp_path: Path) -> None:
    found = recorded(tmp_path / "trace", [70, 20, 30]).scaled(10.0)
    assert found.arrival_ns.tolist() == [0, 1_000, 5_000]
    assert found.rows.tolist() == [2, 3, 1]


def test_default_deadline_is_for_interactive_requests_without_one() -> None:
    times, ones = np.arange(3), np.ones(3, np.int64)
    found = Arrivals(times, ones, ones, np.array([0, 7, 0]), np.array([False, False, True])).within(50)
    assert found.deadline_us.tolist() == [50, 7, 0]


def test_request_larger_than_every_bucket_is_covered_by_splitting() -> None:
    arrivals_at([0], rows=100).refuse_uncovered(ladder_of(1, 8), queue_rows_max=100)


def test_row_of_more_ids_than_every_bucket_is_not_covered() -> None:
    ones = np.ones(1, np.int64)
    wide = Arrivals(ones, ones, 9 * ones, 0 * ones, np.zeros(1, np.bool_))
    with pytest.raises(UsageFailure, match="largest bucket holds 8 ids: it cannot cover a request of 9 ids in 1 rows"):
        wide.refuse_uncovered(ladder_of(1, 8), queue_rows_max=100)


def test_request_larger_than_the_queue_is_not_covered() -> None:
    with pytest.raises(UsageFailure, match="queue of 99 rows cannot take a request of 100"):
        arrivals_at([0], rows=100).refuse_uncovered(ladder_of(1, 8), queue_rows_max=99)


def test_arrivals_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="in their order"):
        arrivals_at([2, 1])

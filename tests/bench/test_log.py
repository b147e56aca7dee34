"""The columns of a log."""

import numpy as np
import pytest

from narsil_graph.bench.log import Log
from narsil_graph.bench.subject import OK, TIMEOUT, Done
from narsil_transport.messages import StageTimes


def log_of(*, keep_scores: bool = False, first: int = 0) -> Log:
    """One answered request of 3 rows and one of 5 that timed out, in 2 s."""
    log = Log(keep_scores=keep_scores)
    times = StageTimes(1.0, 2.0, 3.0, 4.0, 11.0)
    scores = np.arange(3, dtype=np.float32)
    log.add(intended_ns=1000, sent_ns=3000, rows=3, done=Done(first, 9000, OK, scores, times, "B"))
    log.add(intended_ns=2000, sent_ns=4000, rows=5, done=Done(first + 1, 7000, TIMEOUT))
    log.seconds = 2.0
    return log


def test_columns_are_in_the_order_of_ending() -> None:
    log = log_of()
    assert log.number.tolist() == [0, 1]
    assert log.rows.tolist() == [3, 5]
    assert log.statuses == [OK, TIMEOUT]
    assert log.variants == ["B", None]
    assert log.latency_us.tolist() == [8.0, 5.0]
    assert log.naive_us.tolist() == [6.0, 3.0]


def test_times_are_nan_where_the_server_told_none() -> None:
    told, untold = log_of().times
    assert told.tolist() == [1, 2, 3, 4, 11]
    assert np.isnan(untold).all() and len(untold) == 5


def test_rates_count_answered_requests_only() -> None:
    log = log_of()
    assert (log.rows_ok, log.requests_per_s, log.samples_per_s) == (3, 0.5, 1.5)


def test_scores_are_kept_if_asked_for() -> None:
    assert log_of().scores is None
    scores = log_of(keep_scores=True).scores
    assert scores is not None and scores[0] is not None
    assert scores[0].tolist() == [0, 1, 2] and scores[1] is None


def test_joined_logs_follow_each_other_and_last_as_long_as_all() -> None:
    whole = Log.joined([log_of(keep_scores=True), log_of(keep_scores=True, first=2)])
    assert whole.number.tolist() == [0, 1, 2, 3]
    assert (len(whole), whole.seconds, whole.rows_ok) == (4, 4.0, 6)
    assert whole.times.shape == (4, 5)
    assert whole.scores is not None and len(whole.scores) == 4


def test_joined_log_has_scores_only_if_all_have() -> None:
    assert Log.joined([log_of(keep_scores=True), log_of()]).scores is None


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_empty_log_has_empty_columns_and_no_rate(seconds: float) -> None:
    log = Log()
    log.seconds = seconds
    assert (len(log), len(log.latency_us), log.times.shape, log.ok.sum()) == (0, 0, (0, 5), 0)
    assert (log.rows_ok, log.samples_per_s, log.requests_per_s) == (0, 0.0, 0.0)

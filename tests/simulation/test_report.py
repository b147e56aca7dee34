"""A simulation's numbers are what was simulated."""

import json
from pathlib import Path

import numpy as np
import pytest

from narsil_graph.errors import Failure
from narsil_graph.simulation import report
from narsil_graph.simulation.outcome import LAUNCH_DTYPE, REQUEST_DTYPE, Outcome
from narsil_transport.status import Status

# Arrival, receipt and answer in microseconds, rows, deadline in microseconds, status.
REQUESTS = [
    (0, 10, 110, 3, 0, Status.OK),
    (0, 10, 210, 3, 200, Status.OK),
    (0, 10, 410, 4, 399, Status.OK),
    (0, 10, 15, 4, 20, Status.WOULD_MISS),
]


def outcome_of(requests: list[tuple[int, int, int, int, int, Status]]) -> Outcome:
    scale = np.array([1000, 1000, 1000, 1, 1, 1])
    records = np.zeros(len(requests), REQUEST_DTYPE)
    names = ("arrival_ns", "received_ns", "answered_ns", "rows", "deadline_us", "status")
    for name, column in zip(names, (np.array(requests).reshape(-1, 6) * scale).T, strict=True):
        records[name] = column
    launches = np.zeros(2 if requests else 0, LAUNCH_DTYPE)
    launches["bucket_rows"], launches["rows"] = 8, 5
    launches["end_ns"] = 100_000
    return Outcome(records, launches, 1)


def test_summary_counts_what_was_answered_late_and_refused() -> None:
    summary = report.summarise(outcome_of(REQUESTS))
    assert (summary.requests, summary.answered, summary.late, summary.refused) == (4, 3, 1, {"WOULD_MISS": 1})
    assert summary.seconds == pytest.approx(410e-6)
    assert summary.requests_per_s == pytest.approx(3 / 410e-6)
    assert summary.goodput_per_s == pytest.approx(2 / 410e-6)
    assert summary.rows_per_s == pytest.approx(10 / 410e-6)


def test_deadline_counts_from_receipt_and_latency_from_arrival() -> None:
    summary = report.summarise(outcome_of(REQUESTS))
    assert (summary.latency_us_p50, summary.server_us_p50) == (210.0, 200.0)
    assert summary.refusal_us_p99 == 5.0


def test_padding_is_what_buckets_add_to_the_rows() -> None:
    summary = report.summarise(outcome_of(REQUESTS))
    assert (summary.launches, summary.fill) == (2, 10 / 16)
    assert summary.padding == pytest.approx(0.6)
    assert summary.busy == pytest.approx(200 / 410)


def test_nothing_answered_has_no_percentiles() -> None:
    refused = outcome_of(REQUESTS[3:])
    summary = report.summarise(Outcome(refused.requests, refused.launches[:0], 1))
    assert summary.latency_us_p99 is None and summary.fill is None
    assert "p99 -" in report.text_of(summary)
    assert json.loads(json.dumps(summary.to_dict()))["latency_us_p99"] is None


def test_text_names_every_refusal() -> None:
    text = report.text_of(report.summarise(outcome_of(REQUESTS)))
    assert "refused   1 (1 WOULD_MISS), p99 5 us" in text
    assert "fill 62.5%, padding 60.0%" in text


def test_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report.plot(outcome_of(REQUESTS), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["none/picture.png", "picture.strange"])
def test_plot_that_cannot_be_written_is_one_sentence(tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(Failure, match="cannot write"):
        report.plot(outcome_of(REQUESTS), tmp_path / name)


def test_plot_without_matplotlib_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(report, "import_module", missing)
    with pytest.raises(Failure, match=r"pip install 'narsil-graph\[plots\]'"):
        report.plot(outcome_of(REQUESTS), tmp_path / "picture.png")

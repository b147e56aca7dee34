"""A trace holds what was recorded and nothing more; recording is bounded and never fails the server."""

import json
import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from narsil_graph.errors import Failure
from narsil_graph.trace import BUFFERED_RECORDS, TRACE_DTYPE, Recorder, Records, Trace, TraceHeader, read_trace
from narsil_transport.buckets import BucketLadder
from narsil_transport.status import Status

HEADER = TraceHeader(
    model="demo",
    version="abc",
    machine="box",
    ladder=BucketLadder.from_rows((1, 8), ids_per_row=4),
    started_unix_ns=1_700_000_000_000_000_000,
)
BEGAN_NS = 5_000


def recorder(path: Path, *, size_mib_max: int = 1) -> Recorder:
    return Recorder(path, header=HEADER, size_mib_max=size_mib_max, began_ns=BEGAN_NS)


def record(into: Recorder, arrival_ns: int, *, rows: int = 3, deadline_us: int = 0, latency_us: int = 9) -> None:
    into.record(
        arrival_ns=BEGAN_NS + arrival_ns,
        rows=rows,
        ids=rows * 4,
        deadline_us=deadline_us,
        latency_us=latency_us,
        status=Status.OK,
        bulk=False,
    )


def records(*arrivals_ns: int) -> Records:
    made = np.zeros(len(arrivals_ns), TRACE_DTYPE)
    made["arrival_ns"], made["rows"] = arrivals_ns, 1
    return made


def test_record_has_28_little_endian_bytes() -> None:
    assert TRACE_DTYPE.itemsize == 28
    one = np.zeros(1, TRACE_DTYPE)
    one[0] = (1, 2, 3, 4, 5, 6, 1)
    numbers = b"".join(number.to_bytes(size, "little") for number, size in ((1, 8), (2, 4), (3, 4), (4, 4), (5, 4)))
    assert one.tobytes() == numbers + b"\x06\x01\0\0"


def test_trace_is_read_as_recorded(tmp_path: Path) -> None:
    made = recorder(tmp_path / "t")
    made.record(
        arrival_ns=BEGAN_NS + 7, rows=2, ids=8, deadline_us=500, latency_us=81, status=Status.WOULD_MISS, bulk=True
    )
    made.close()
    trace = read_trace(tmp_path / "t")
    assert trace.header == HEADER
    assert trace.records.tolist() == [(7, 2, 8, 500, 81, Status.WOULD_MISS, 1)]


def test_records_of_answers_are_read_by_arrival(tmp_path: Path) -> None:
    made = recorder(tmp_path / "t")
    for arrival_ns, rows in ((30, 1), (10, 2), (20, 3), (10, 4)):
        record(made, arrival_ns, rows=rows)
    made.close()
    assert read_trace(tmp_path / "t").records["rows"].tolist() == [2, 4, 3, 1]


def test_more_than_a_buffer_is_kept_in_order(tmp_path: Path) -> None:
    made = recorder(tmp_path / "t")
    for arrival_ns in range(BUFFERED_RECORDS + 5):
        record(made, arrival_ns)
    made.close()
    assert read_trace(tmp_path / "t").records["arrival_ns"].tolist() == list(range(BUFFERED_RECORDS + 5))


def test_records_are_on_disk_after_a_flush(tmp_path: Path) -> None:
    made = recorder(tmp_path / "t")
    record(made, 1)
    made.flush()
    assert len(read_trace(tmp_path / "t").records) == 1
    made.close()


def test_times_too_long_for_a_record_are_cut(tmp_path: Path) -> None:
    made = recorder(tmp_path / "t")
    record(made, 1, deadline_us=2**40, latency_us=2**35)
    made.close()
    (only,) = read_trace(tmp_path / "t").records
    assert (only["deadline_us"], only["latency_us"]) == (2**31 - 1, 2**31 - 1)


def test_full_file_ends_the_recording_and_the_rest_is_counted(tmp_path: Path) -> None:
    made = recorder(tmp_path / "t")
    for arrival_ns in range(40_000):
        record(made, arrival_ns)
    made.close()
    kept = len(read_trace(tmp_path / "t").records)
    size_bytes = (tmp_path / "t").stat().st_size
    assert 2**20 - TRACE_DTYPE.itemsize < size_bytes <= 2**20
    assert made.dropped == 40_000 - kept


def test_record_after_the_close_is_counted_as_dropped(tmp_path: Path) -> None:
    made = recorder(tmp_path / "t")
    record(made, 1)
    made.close()
    made.close()
    record(made, 2)
    assert made.dropped == 1
    assert len(read_trace(tmp_path / "t").records) == 1


@contextmanager
def files_of_at_most(size_bytes: int) -> Generator[None]:
    """As on a full disk: a write stops there, and the next is an OSError."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_failed_write_ends_the_recording_and_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = recorder(tmp_path / "t")
    for arrival_ns in range(100):
        record(made, arrival_ns)
    with files_of_at_most(len(HEADER.line()) + 10 * TRACE_DTYPE.itemsize + 5):
        made.flush()
    record(made, 100)
    made.close()
    assert capsys.readouterr().err == f"narsil-graph: {tmp_path}/t: File too large; recording has stopped\n"
    assert len(read_trace(tmp_path / "t").records) == 10
    assert made.dropped == 91


def test_file_that_cannot_be_begun_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"^cannot write .*/none/t: No such file or directory$"):
        recorder(tmp_path / "none" / "t")


def test_torn_last_record_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(HEADER.line() + records(1, 2, 3).tobytes()[:-1])
    assert read_trace(tmp_path / "t").records["arrival_ns"].tolist() == [1, 2]


def changed(**fields: object) -> bytes:
    return json.dumps(json.loads(HEADER.line()) | fields).encode() + b"\n"


ONE = records(1).tobytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it does not begin with a line of JSON"),
        (b"\0" * 100, "it does not begin with a line of JSON"),
        (b"not JSON\n", "Expecting value"),
        (b"\xff\xfe\n", "codec can't decode"),
        (b"[" * 100_000 + b"\n", "recursion"),
        (b"[]\n", "its first line is not a header of format narsil-trace-1"),
        (changed(format="narsil-trace-2") + ONE, "its first line is not a header of format narsil-trace-1"),
        (changed(model=1) + ONE, "its header wants model, version, machine and started_unix_ns"),
        (changed(started_unix_ns=None) + ONE, "its header wants model, version, machine and started_unix_ns"),
        (changed(ladder=[[1]]) + ONE, "its ladder wants pairs of rows and ids"),
        (changed(ladder=[[1, True]]) + ONE, "its ladder wants pairs of rows and ids"),
        (changed(ladder=[]) + ONE, "want at least one bucket"),
        (changed(ladder=[[8, 8], [1, 8]]) + ONE, "want buckets that increase in rows"),
        (HEADER.line(), "there are no records"),
        (HEADER.line() + ONE[:20], "there are no records"),
    ],
)
def test_malformed_file_is_refused_in_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(Failure, match=r"/t is not a trace that can be used: ") as refused:
        read_trace(tmp_path / "t")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arrival_ns", -1),
        ("rows", 0),
        ("ids", -4),
        ("deadline_us", -1),
        ("latency_us", -1),
        ("status", len(Status)),
        ("bulk", 2),
    ],
)
def test_record_that_no_server_writes_is_refused(name: str, value: int) -> None:
    found = records(1, 2)
    found[name][0] = value
    with pytest.raises(ValueError, match=f"^record 0 has {name} {value}$"):
        Trace(HEADER, found)


def test_trace_is_in_the_order_of_arrival() -> None:
    with pytest.raises(ValueError, match="not in the order of arrival"):
        Trace(HEADER, records(2, 1))


def test_missing_trace_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"^cannot read the trace .*/t: No such file or directory$"):
        read_trace(tmp_path / "t")

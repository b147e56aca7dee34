"""Recorded traffic: when requests came, how large they were and what became of them; no features.

A trace file is one line of JSON, then records of `TRACE_DTYPE` in the order in which they were answered.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narsil_graph.errors import Failure
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.status import Status

FORMAT = "narsil-trace-1"
TRACE_DTYPE = np.dtype(
    {
        "names": ["arrival_ns", "rows", "ids", "deadline_us", "latency_us", "status", "bulk"],
        "formats": ["<i8", "<i4", "<i4", "<i4", "<i4", "u1", "u1"],
        "itemsize": 28,
    }
)
"""``deadline_us`` counts from arrival, 0 is none; ``latency_us`` runs from arrival to the answer, of that `Status`."""
I4_MAX = 2**31 - 1
# 112 KiB: one write to the page cache of some tens of microseconds, every 4,096 requests.
BUFFERED_RECORDS = 4096
# The largest ladder has a few hundred buckets; what has no line end within this is another file.
HEADER_BYTES_MAX = 1 << 20

Records = NDArray[np.void]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceHeader:
    """Who was asked: the model, the machine and the buckets that answered, and the wall clock where arrivals are 0."""

    model: str
    version: str
    machine: str
    ladder: BucketLadder
    started_unix_ns: int

    def line(self) -> bytes:
        """The first line of a trace file."""
        fields: dict[str, object] = {
            "format": FORMAT,
            "model": self.model,
            "version": self.version,
            "machine": self.machine,
            "ladder": [[bucket.rows, bucket.ids] for bucket in self.ladder.buckets],
            "started_unix_ns": self.started_unix_ns,
        }
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "TraceHeader":
        """Raises ValueError for anything but what `line` gives."""
        fields: Any = json.loads(line.decode())
        if type(fields) is not dict or fields.get("format") != FORMAT:
            raise ValueError(f"its first line is not a header of format {FORMAT}")
        texts: dict[str, Any] = {name: fields.get(name) for name in ("model", "version", "machine")}
        ladder, started_unix_ns = fields.get("ladder"), fields.get("started_unix_ns")
        if any(type(text) is not str for text in texts.values()) or type(started_unix_ns) is not int:
            raise ValueError("its header wants model, version, machine and started_unix_ns")
        if type(ladder) is not list or not all(_is_pair(pair) for pair in ladder):
            raise ValueError("its ladder wants pairs of rows and ids")
        buckets = BucketLadder(tuple(Bucket(rows, ids) for rows, ids in ladder))
        return cls(**texts, ladder=buckets, started_unix_ns=started_unix_ns)


def _is_pair(pair: object) -> bool:
    return type(pair) is list and len(pair) == 2 and all(type(number) is int for number in pair)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """``records`` of `TRACE_DTYPE`, at least one, in the order of arrival. Raises ValueError where they contradict."""

    header: TraceHeader
    records: Records

    def __post_init__(self) -> None:
        records = self.records
        if records.dtype != TRACE_DTYPE or records.ndim != 1:
            raise ValueError("want one dimension of trace records")
        if not len(records):
            raise ValueError("there are no records")
        if np.any(np.diff(records["arrival_ns"]) < 0):
            raise ValueError("the records are not in the order of arrival")
        for name, least, most in (
            ("arrival_ns", 0, None),
            ("rows", 1, None),
            ("ids", 0, None),
            ("deadline_us", 0, None),
            ("latency_us", 0, None),
            ("status", 0, max(Status)),
            ("bulk", 0, 1),
        ):
            column = records[name]
            wrong = (column < least) if most is None else (column < least) | (column > most)
            if wrong.any():
                place = int(wrong.argmax())
                raise ValueError(f"record {place} has {name} {column[place]}")


def read_trace(path: Path) -> Trace:
    """The trace at ``path``, sorted by arrival; a torn last record is left out. A Failure names what is wrong."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Failure(f"cannot read the trace {path}: {error.strerror}") from None
    try:
        end = content.find(b"\n", 0, HEADER_BYTES_MAX)
        if end < 0:
            raise ValueError("it does not begin with a line of JSON")
        header = TraceHeader.from_line(content[:end])
        count = (len(content) - end - 1) // TRACE_DTYPE.itemsize
        records = np.frombuffer(content, TRACE_DTYPE, count, end + 1)
        return Trace(header, records[np.argsort(records["arrival_ns"], kind="stable")])
    except (ValueError, RecursionError) as error:
        raise Failure(f"{path} is not a trace that can be used: {error}") from None


class Recorder:
    """Writes a trace of at most ``size_mib_max``, from its making to `close`; what is beyond is counted in ``dropped``.

    ``began_ns`` is the clock of ``arrival_ns`` at the header's start. A file that cannot be begun is a Failure. One
    that cannot be continued (a full disk) is told once on standard error and ends the recording, never the caller.
    """

    def __init__(self, path: Path, *, header: TraceHeader, size_mib_max: int, began_ns: int) -> None:
        line = header.line()
        try:
            # Unbuffered: the records are gathered here.
            self._file = path.open("wb", buffering=0)
            self._file.write(line)
        except OSError as error:
            raise Failure(f"cannot write {path}: {error.strerror}") from None
        self._path = path
        self._began_ns = began_ns
        self._room = (size_mib_max * 2**20 - len(line)) // TRACE_DTYPE.itemsize
        self._buffer = np.zeros(BUFFERED_RECORDS, TRACE_DTYPE)
        self._count = 0
        self.dropped = 0

    def record(
        self,
        *,
        arrival_ns: int,
        rows: int,
        ids: int,
        deadline_us: int,
        latency_us: int,
        status: int,
        bulk: bool,
    ) -> None:
        """One answered request; times too long for a record are cut to its longest."""
        if self._room <= 0:
            self.dropped += 1
            return
        self._room -= 1
        # Comparisons, for two calls of min() would cost another quarter of the whole.
        deadline_us = deadline_us if deadline_us < I4_MAX else I4_MAX
        latency_us = latency_us if latency_us < I4_MAX else I4_MAX
        count = self._count
        self._buffer[count] = (arrival_ns - self._began_ns, rows, ids, deadline_us, latency_us, status, bulk)
        self._count = count + 1
        if self._count == BUFFERED_RECORDS:
            self.flush()

    def flush(self) -> None:
        """Write what is gathered."""
        left = memoryview(self._buffer[: self._count].tobytes())
        self._count = 0
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            # A record that was written in part is lost too.
            self.dropped += -(-len(left) // TRACE_DTYPE.itemsize)
            self._room = 0
            print(f"narsil-graph: {self._path}: {error.strerror}; recording has stopped", file=sys.stderr)

    def close(self) -> None:
        """Write what is gathered, and end the file. A second close does nothing."""
        if not self._file.closed:
            self.flush()
            self._file.close()
            self._room = 0

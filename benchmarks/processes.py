"""Processes that the benchmarks start: servers, neighbours, and other benchmark scripts in fresh interpreters."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from socket import socket
from typing import Any, Self

from benchmarks.machine import ROOT


@contextmanager
def pinned(cpu: int | None) -> Generator[None]:
    """While entered, this thread, and so every process that it starts, runs on ``cpu`` only (None: anywhere)."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if cpu is None else {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def two_cpus() -> tuple[int, int]:
    """One for the server and one for the client. SystemExit where there is only one."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        sys.exit("this benchmark needs two cores: one for the server, one for the client")
    return cpus[0], cpus[1]


def run_script(name: str, *arguments: object, cpu: int | None = None) -> dict[str, list[dict[str, Any]]]:
    """The tables of ``benchmarks/NAME``, run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder, pinned(cpu):
        out = Path(folder) / "out.json"
        command = [sys.executable, str(ROOT / "benchmarks" / name), *map(str, arguments), "--json", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        tables: dict[str, list[dict[str, Any]]] = json.loads(out.read_text())["tables"]
    return tables


class Process:
    """A process that says "ready ..." on standard output; stopped when its ``with`` block ends."""

    def __init__(self, command: Sequence[str], *, ready: str = "ready", cpu: int | None = None) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        begin = time.perf_counter()
        with pinned(cpu):
            self._popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._errors, text=True)
        assert self._popen.stdout is not None
        self.line = next((line for line in self._popen.stdout if line.startswith(ready)), "")
        self.seconds = time.perf_counter() - begin
        if not self.line:
            self._errors.seek(0)
            sys.exit(f"{' '.join(command)} did not become ready:\n{self._errors.read()}")

    def resident_mib(self) -> float:
        """Of the process and its children, each counted whole."""
        parents = {pid: int(_status(pid, "PPid")) for pid in os.listdir("/proc") if pid.isdigit()}
        own = [str(self._popen.pid), *(pid for pid, parent in parents.items() if parent == self._popen.pid)]
        return sum(int(_status(pid, "VmRSS").split()[0]) for pid in own) / 1024

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._popen.terminate()
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        assert self._popen.stdout is not None
        self._popen.stdout.close()
        self._errors.close()


def _status(pid: str, key: str) -> str:
    """A line of /proc/PID/status; "0" where the process has gone or has no such line."""
    try:
        lines = Path("/proc", pid, "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return "0"
    return next((line.split(":", 1)[1] for line in lines if line.startswith(f"{key}:")), "0").strip()


class Served(Process):
    """`narsil-graph serve` and the endpoints that it answers at."""

    def __init__(
        self,
        model: Path,
        bind: str,
        *,
        precision: str = "f32",
        workers: int = 1,
        threads: int = 1,
        cpu: int | None = None,
        device: str = "cpu",
    ) -> None:
        options = ["--model", str(model), "--bind", bind, "--precision", precision, "--workers", str(workers)]
        options += ["--threads", str(threads), "--device", device]
        # The workers' own ready lines come before their supervisor's.
        ready = "ready" if workers == 1 else f"ready {workers} workers"
        super().__init__([sys.executable, "-m", "narsil_graph", "serve", *options], ready=ready, cpu=cpu)
        self.endpoints = [word for word in self.line.split() if "://" in word]


def free_ports(count: int) -> int:
    """The first of ``count`` consecutive TCP ports that nothing listens at."""
    firsts = range(20_000, 30_000 - count + 1, count)
    # Elsewhere for each process: of two that look at the same moment, both would find the same.
    begin = os.getpid() % len(firsts)
    for first in chain(firsts[begin:], firsts[:begin]):
        try:
            for port in range(first, first + count):
                with socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    sys.exit("no free TCP ports from 20000 to 29999")

"""`--workers N`: N one-lane server processes under one supervisor, each pinned and with an endpoint of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from narsil_graph.errors import Failure, UsageFailure
from narsil_graph.ready_file import tell_ready

# A worker that dies this often within the window is broken, not unlucky.
RESTARTS_MAX = 5
RESTART_WINDOW_S = 60.0
POLL_S = 0.05
# From Linux's prctl.h: the signal that a process gets when its parent dies.
PR_SET_PDEATHSIG = 1


def worker_endpoint(bind: str, index: int) -> str:
    """tcp ports count up from ``bind``'s; ipc paths get the worker's number. UsageFailure for anything else."""
    if bind.startswith("tcp://") and bind.rpartition(":")[2].isdigit():
        host, _, port = bind.rpartition(":")
        if int(port) + index > 65535:
            raise UsageFailure(f"--bind {bind} leaves no port for worker {index}")
        return f"{host}:{int(port) + index}"
    if bind.startswith("ipc://"):
        return f"{bind}.{index}"
    raise UsageFailure(f"--workers needs --bind tcp://HOST:PORT or ipc://PATH, got {bind}")


class Supervisor:
    """Starts the workers, restarts one that dies, and passes the stop signals on."""

    def __init__(
        self,
        arguments: list[str],
        endpoints: list[str],
        *,
        ready_file: Path | None,
        record: Path | None,
        dry_run: bool,
        reloads: bool,
    ) -> None:
        """Each worker's trace is at ``record`` with its number behind. With ``reloads`` they obey SIGHUP."""
        self._arguments = arguments
        self._record = record
        self._endpoints = endpoints
        self._ready_file = ready_file
        self._dry_run = dry_run
        self._signals = (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if reloads else ()))
        self._cpus = sorted(os.sched_getaffinity(0))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._deaths: list[float] = []
        self._caught: list[int] = []
        self._stopping = False

    def run(self) -> None:
        """Until a stop signal (or a dry run) is over; a Failure when the workers keep dying or one cannot start."""
        for number in self._signals:
            signal.signal(number, lambda caught, frame: self._caught.append(caught))
        with tempfile.TemporaryDirectory(prefix="narsil-") as folder:
            marks = [Path(folder) / str(index) for index in range(len(self._endpoints))]
            self._processes = [self._start(index, mark) for index, mark in enumerate(marks)]
            try:
                self._watch(marks)
            finally:
                for process in self._processes:
                    process.terminate()
                for process in self._processes:
                    process.wait()

    def _watch(self, marks: list[Path]) -> None:
        told = False
        while True:
            # Here and not in the handler, so that a worker which is just being started gets them too.
            self._pass_on(told)
            ended = [process.poll() is not None for process in self._processes]
            if not told and all(mark.exists() for mark in marks):
                told = True
                tell_ready(f"ready {len(marks)} workers {' '.join(self._endpoints)}", self._ready_file)
            if all(ended) and (self._stopping or (self._dry_run and told)):
                return
            for index, process in enumerate(self._processes):
                if ended[index] and not self._stopping and not (self._dry_run and process.returncode == 0):
                    self._count_death(process.returncode, started=told)
                    self._processes[index] = self._start(index, marks[index])
            time.sleep(POLL_S)

    def _count_death(self, code: int, *, started: bool) -> None:
        now = time.monotonic()
        self._deaths = [at for at in self._deaths if now - at < RESTART_WINDOW_S] + [now]
        if not started or len(self._deaths) > RESTARTS_MAX:
            raise Failure(f"a worker ended with code {code}; its own words are above")

    def _start(self, index: int, mark: Path) -> subprocess.Popen[bytes]:
        cpu = self._cpus[index % len(self._cpus)]
        own = ["--workers", "1", "--bind", self._endpoints[index], "--ready-file", str(mark)]
        if self._record is not None:
            own += ["--record", f"{self._record}.{index}"]
        # The child pins itself before its libraries size their thread pools, and asks the kernel to end it with us.
        code = (
            f"import ctypes, os; os.sched_setaffinity(0, {{{cpu}}}); "
            f"ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {int(signal.SIGTERM)}); "
            "from narsil_graph.__main__ import main; main()"
        )
        return subprocess.Popen([sys.executable, "-c", code, "serve", *self._arguments, *own], start_new_session=True)

    def _pass_on(self, told: bool) -> None:
        caught, self._caught = self._caught, []
        for number in caught:
            if number == signal.SIGHUP and not told:
                # A worker that starts would be ended by it: kept for when all are ready.
                self._caught.append(number)
                continue
            self._stopping = self._stopping or number != signal.SIGHUP
            for process in self._processes:
                process.send_signal(number)


def supervise(context: click.Context, workers: int) -> None:
    """Run ``serve`` with the context's own options in ``workers`` processes."""
    parameters = context.params
    endpoints = [worker_endpoint(parameters["bind"], index) for index in range(workers)]
    own = {name: parameters[name] for name in ("ready_file", "record", "dry_run")}
    reloads = parameters["curve_secret_key"] is not None
    Supervisor(_arguments(context), endpoints, **own, reloads=reloads).run()


def _arguments(context: click.Context) -> list[str]:
    """The context's options as flags, whatever they came from; what is each worker's own is left out."""
    arguments: list[str] = []
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if option.name in ("workers", "bind", "ready_file", "config", "record") or value is None or value is False:
            continue
        if option.multiple:
            arguments += [word for each in value for word in (option.opts[0], str(each))]
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        arguments += [option.opts[0]] if value is True else [option.opts[0], text]
    return arguments

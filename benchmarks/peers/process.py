"""Foreign servers as processes, each in the environment that install.sh made for it."""

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import ROOT
from narsil_graph.bench.variants import family
from narsil_graph.errors import UsageFailure

ENVIRONMENTS = ROOT / ".peers"
# Ray takes the longest of them, about 20 s on two idle cores.
READY_WITHIN_S = 180
STOPPED_WITHIN_S = 15
LOOK_EVERY_S = 0.02
# Of what a server wrote before it failed, the end.
SAID_MAX = 400
READY = re.compile(r"^ready (.+)\n", re.MULTILINE)
# Their code is of this tree; one thread per forward, or two cores would be shared by four.
VARIABLES = {
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "transport", ROOT / "clients" / "python"))),
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """What a peer's ready line said after the word "ready", and its processes."""

    address: str
    pids: tuple[int, ...]


@contextmanager
def running(peer: str, program: str, *arguments: object, **variables: str) -> Generator[Peer]:
    """``.peers/PEER/PROGRAM ARGUMENTS`` from its "ready ADDRESS" on standard output until the block ends.

    UsageFailure where the peer is not installed, or did not become ready; the message ends with what it wrote.
    """
    command = _command(peer, program, *arguments)
    # A folder of its own for the sockets and logs that it leaves behind, the longer where it has to be killed.
    with tempfile.TemporaryFile() as said, tempfile.TemporaryDirectory() as folder:
        # A session of its own, so that whatever it starts can be stopped with it.
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=said,
            cwd=ROOT,
            env={**os.environ, **VARIABLES, "TMPDIR": folder, **variables},
            start_new_session=True,
        )
        try:
            yield Peer(_address(peer, process, said.fileno()), processes_of(process.pid))
        finally:
            _stop(process)


def finished(peer: str, program: str, *arguments: object) -> None:
    """Run ``.peers/PEER/PROGRAM ARGUMENTS`` to its end. UsageFailure where it is not installed, or fails."""
    ran = subprocess.run(
        _command(peer, program, *arguments), capture_output=True, text=True, cwd=ROOT, env={**os.environ, **VARIABLES}
    )
    if ran.returncode:
        raise UsageFailure(f"{peer}: {' '.join(ran.stderr[-SAID_MAX:].split())}")


def _command(peer: str, program: str, *arguments: object) -> list[str]:
    path = ENVIRONMENTS / peer / program
    if not path.exists():
        raise UsageFailure(f"{peer} is not installed: benchmarks/peers/install.sh {peer}")
    return [str(path), *map(str, arguments)]


def _address(peer: str, process: subprocess.Popen[bytes], said: int) -> str:
    until = time.monotonic() + READY_WITHIN_S
    while True:
        alive = process.poll() is None and time.monotonic() < until
        text = os.pread(said, os.fstat(said).st_size, 0).decode(errors="replace")
        if ready := READY.search(text):
            return ready[1]
        if not alive:
            raise UsageFailure(f"{peer} did not become ready: {' '.join(text[-SAID_MAX:].split())}")
        time.sleep(LOOK_EVERY_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Asks the first process only, which stops its own in its own order; whoever is left then has had its chance."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOPPED_WITHIN_S)
    # Looked for again and again, for they may start others; waited for, because they write where their folder was.
    until = time.monotonic() + STOPPED_WITHIN_S
    while time.monotonic() < until:
        left = [pid for pid in processes_of(process.pid) if pid != process.pid or process.poll() is None]
        if not left:
            break
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK_EVERY_S)


def processes_of(pid: int) -> tuple[int, ...]:
    """The process ``pid``, all that come from it, and all of its session, whose parents may have ended."""
    others: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                # Behind the name, which may hold anything: the state, the parent, the group and the session.
                state, *_, its = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(its) == pid and state != "Z":
                    others.append(int(entry.name))
    return tuple(dict.fromkeys((*family(pid), *others)))

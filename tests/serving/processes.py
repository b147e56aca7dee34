"""The command as users run it: a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "narsil_graph" / "model" / "demo.safetensors"
PATIENCE_S = 30.0
# A test's own settings only; one thread, for the machine is shared.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("NARSIL_")} | {
    "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "transport", "clients/python")),
    "OMP_NUM_THREADS": "1",
}


def narsil(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return run_python("-m", "narsil_graph", *arguments, environment=environment)


def run_python(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=ENVIRONMENT | (environment or {}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def only_sentence(ended: subprocess.CompletedProcess[str]) -> str:
    """What a failed command said, which must be one line of its own and no traceback."""
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("captured ")]
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("narsil-graph: ")
    return lines[0].removeprefix("narsil-graph: ")


def usage_error(ended: subprocess.CompletedProcess[str]) -> str:
    """What a command that was asked wrongly said below click's usage lines."""
    assert ended.returncode == 2, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("Error: "), ended.stderr
    return last.removeprefix("Error: ")


class ServerProcess:
    """``serve`` with these arguments, from its ready file on. As a context it ends with the block."""

    def __init__(
        self,
        folder: Path,
        *arguments: object,
        bind: str | None = None,
        python: tuple[str, ...] = ("-m", "narsil_graph"),
    ) -> None:
        self.ready_path = folder / "ready"
        bind = bind or f"ipc://{folder}/s"
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, *python, "serve", "--bind", bind, "--ready-file", str(self.ready_path)),
                    *map(str, arguments),
                ],
                env=ENVIRONMENT,
                stdout=log,
                stderr=log,
            )
        self._log_path = folder / "log"

    def __enter__(self) -> "ServerProcess":
        end = time.monotonic() + PATIENCE_S
        while not self.ready_path.exists():
            assert self.process.poll() is None and time.monotonic() < end, self.log
            time.sleep(0.02)
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    @property
    def ready_line(self) -> str:
        return self.ready_path.read_text()

    @property
    def endpoint(self) -> str:
        return self.ready_line.split()[1]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and return its exit code."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        return self.process.wait(PATIENCE_S)

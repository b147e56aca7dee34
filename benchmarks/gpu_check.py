"""Everything that needs a CUDA device, in one go: tests/gpu, the doctor, replay.py; a report, and its summary last.

make gpu-check, or: python benchmarks/gpu_check.py
"""

import argparse
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# A plain checkout has nothing installed.
SOURCES = [str(ROOT / part) for part in ("", "transport", "clients/python")]
TOTAL_LIMIT_S = 480.0
# Less is not worth starting.
STEP_MIN_S = 5.0
SHORT_LADDER = ("--buckets", "1,100,128,1024")
# (name, its own limit in seconds), in the order in which they would be missed.
REPLAY_PARTS = (
    ("sides", 80.0),
    ("breakdown", 30.0),
    ("curve", 60.0),
    ("served", 60.0),
    ("capture", 40.0),
    ("lanes", 30.0),
    ("kernels", 60.0),
    ("zero_copy", 20.0),
)


@dataclass(frozen=True, slots=True)
class Step:
    """A process that was run, and what it said on its two streams; ``code`` is None where it did not end by itself."""

    name: str
    seconds: float
    code: int | None
    output: str
    errors: str

    @property
    def passed(self) -> bool:
        return self.code == 0


class Runner:
    """Runs one process after another, each within its own limit and all within one."""

    def __init__(self, total_limit_s: float) -> None:
        self._end = time.monotonic() + total_limit_s
        self.steps: list[Step] = []

    def run(self, name: str, limit_s: float, *arguments: object) -> Step:
        """``python arguments``, stopped with all its children at the limit, or not begun where no time is left."""
        limit_s, begin = min(limit_s, self._end - time.monotonic()), time.monotonic()
        if limit_s < STEP_MIN_S:
            return self._told(Step(name, 0.0, None, "", "not run: the time for all was used up"))
        with (
            tempfile.TemporaryFile("w+", errors="replace") as output,
            tempfile.TemporaryFile("w+", errors="replace") as errors,
        ):
            command = [sys.executable, *map(str, arguments)]
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment(), stdout=output, stderr=errors, start_new_session=True
            )
            code: int | None = None
            try:
                code = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0)
            errors.seek(0)
            stopped = "" if code is not None else f"\nstopped after {limit_s:.0f} s"
            return self._told(Step(name, time.monotonic() - begin, code, output.read(), errors.read() + stopped))

    def _told(self, step: Step) -> Step:
        self.steps.append(step)
        verdict = "passed" if step.passed else "failed" if step.code is not None else "stopped"
        print(f"{step.name}: {verdict} in {step.seconds:.0f} s", flush=True)
        return step


def environment() -> dict[str, str]:
    """This process's own, in which the checkout can be imported, and pytest loads none of the plugins it may find."""
    paths = [*SOURCES, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def main() -> None:
    options = _options()
    sys.path[:0] = SOURCES
    from benchmarks import machine
    from benchmarks.gpu_summary import summary
    from narsil_graph.engine import cuda_support
    from narsil_graph.errors import Failure

    try:
        cuda_support.require_cuda()
    except Failure as missing:
        sys.exit(f"gpu_check needs a CUDA device: {missing}")
    device = cuda_support.describe()
    commit = options.commit or machine.commit()
    header = machine.describe() | {"commit": commit, "date": datetime.date.today().isoformat()}
    runner = Runner(options.limit)
    found: dict[str, Any] = {"machine": header, "device": device}
    with tempfile.TemporaryDirectory(prefix="narsil-") as folder:
        found |= check(runner, Path(folder), quick=options.quick)
    found["steps"] = [{"name": step.name, "seconds": step.seconds, "code": step.code} for step in runner.steps]
    lines = summary(found)
    name = slug(f"{header['date']} {device['device']} {commit}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{name}.json").write_text(json.dumps(found, indent=1))
    # The doctor's JSON is in the other report.
    logs = [f"\n--- {step.name}\n{'' if step.output.startswith('{') else step.output}{step.errors}"
            for step in runner.steps]  # fmt: skip
    (options.out / f"{name}.txt").write_text("\n".join([*lines, *logs]) + "\n")
    print("\n".join(["", *lines]), flush=True)
    sys.exit(0 if found["passed"] else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of both reports")
    parser.add_argument("--commit", help="what is checked, where the copy of it is no git repository")
    parser.add_argument("--limit", type=float, default=TOTAL_LIMIT_S, help="seconds for everything")
    parser.add_argument("--quick", action="store_true", help="replay.py only shows that it works")
    return parser.parse_args()


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def check(runner: Runner, folder: Path, *, quick: bool) -> dict[str, Any]:
    """Tests, then the doctor, then what is measured: that fails nothing."""
    tests = runner.run("tests", 150, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider", "--tb=short", "-rfE")
    model = folder / "reference.safetensors"
    made = runner.run("make-model", 60, "-m", "narsil_graph", "make-model", "-o", model)
    doctors = {name: _doctor(runner, name, folder, arguments) for name, arguments in doctor_runs(model, folder)}
    parts: dict[str, Any] = {}
    for name, limit_s in REPLAY_PARTS:
        out = folder / f"{name}.json"
        more = ["--quick"] if quick else []
        script = ROOT / "benchmarks" / "replay.py"
        step = runner.run(f"replay {name}", limit_s, script, "--part", name, "--model", model, "--json", out, *more)
        measured = json.loads(out.read_text())["parts"] if out.exists() else {}
        parts[name] = measured.get(name, {"problem": last_line(step.output + step.errors)})
    # Tests that were all skipped have shown nothing.
    tested = tests.passed and " passed" in last_line(tests.output)
    passed = tested and made.passed and all(each["passed"] for each in doctors.values())
    failed = [line for line in tests.output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    verdict = {"passed": tested, "result": last_line(tests.output or tests.errors), "failed": failed}
    return {"tests": verdict, "doctor": doctors, "replay": parts, "passed": passed}


def doctor_runs(model: Path, folder: Path) -> list[tuple[str, tuple[object, ...]]]:
    """(name, arguments): the default ladder once on each model, the other settings on a few buckets."""
    runs: list[tuple[str, tuple[object, ...]]] = [
        ("reference f32", (model, "--dot", folder / "graph.dot")),
        *((f"reference {name}", (model, "--precision", name, *SHORT_LADDER)) for name in ("tf32", "bf16", "fp16")),
        ("reference f32 triton", (model, "--kernels", "triton", *SHORT_LADDER)),
        ("reference bf16 triton", (model, "--kernels", "triton", "--precision", "bf16", *SHORT_LADDER)),
        ("reference f32 2 lanes, sequence", (model, "--lanes", "2", "--completion", "sequence", *SHORT_LADDER)),
        ("demo f32", ()),
        ("demo f32 triton", ("--kernels", "triton", *SHORT_LADDER)),
    ]
    return runs


def _doctor(runner: Runner, name: str, folder: Path, arguments: tuple[object, ...]) -> dict[str, Any]:
    """What it found, and whether it found everything healthy; --dot must also have drawn something."""
    command = ("-m", "narsil_graph", "doctor", *arguments, "--device", "cuda", "--json")
    step = runner.run(f"doctor {name}", 60, *command)
    try:
        report = json.loads(step.output)
    except ValueError:
        report = {}
    said = [line for line in step.errors.splitlines() if line.startswith("narsil-graph: ")]
    problem = None if step.passed else said[0] if said and step.code is not None else last_line(step.errors)
    picture = folder / "graph.dot"
    if step.passed and "--dot" in arguments and not (picture.exists() and "digraph" in picture.read_text()):
        problem = "--dot drew no graph"
    return {"passed": problem is None, "problem": problem, "report": report}


def last_line(said: str) -> str:
    return next((line for line in reversed(said.splitlines()) if line.strip()), "said nothing")


if __name__ == "__main__":
    main()

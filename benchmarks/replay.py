"""CUDA graph replays: beside eager PyTorch and TorchScript, against the device's floors, and served.

Every part stands alone: one that fails says so, and the others go on.

python benchmarks/replay.py
"""

import argparse
import dataclasses
import importlib
import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine
from narsil_graph import threads

if TYPE_CHECKING:
    from benchmarks.device_clock import Rig, Tables

# By name, for the clients that the last one starts load this file again, and should load no torch.
PARTS = {
    "sides": "replay_sides",
    "breakdown": "replay_sides",
    "curve": "replay_curve",
    "capture": "replay_curve",
    "kernels": "replay_curve",
    "lanes": "replay_curve",
    "zero_copy": "replay_curve",
    "served": "replay_served",
}


@dataclass(slots=True)
class Outcome:
    """What came of a part: its tables, or one line that says why there are none, with the traceback."""

    tables: "Tables" = field(default_factory=dict)
    problem: str | None = None
    traceback: str = ""


def main() -> None:
    options = _options()
    # As a server with one thread: what runs on the CPU is short.
    threads.prepare(1)
    from narsil_graph.engine import cuda_support
    from narsil_graph.errors import Failure

    try:
        cuda_support.require_cuda()
    except Failure as missing:
        sys.exit(f"replay.py measures a CUDA device: {missing}")
    threads.pin_torch(1)
    report = machine.Report("replay: one CUDA graph launch per batch")
    device = cuda_support.describe()
    print(f"# device:   {', '.join(f'{name} {value}' for name, value in device.items())}")
    outcomes = run(cuda_rig(options.model, quick=options.quick), options.part or list(PARTS), report, lost=cuda_lost)
    if options.json is not None:
        parts = {name: dataclasses.asdict(outcome) for name, outcome in outcomes.items()}
        options.json.write_text(json.dumps({"machine": report.machine, "device": device, "parts": parts}, indent=1))
    if any(outcome.problem for outcome in outcomes.values()):
        sys.exit(1)


def _options() -> argparse.Namespace:
    parser = machine.parser(__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; may be given again")
    return parser.parse_args()


def cuda_rig(path: Path, *, quick: bool) -> "Rig":
    """The model on torch's current CUDA device, which ``require_cuda`` has found usable."""
    from benchmarks.device_clock import EventClock, Rig
    from narsil_graph.engine import fbgemm
    from narsil_graph.engine.cuda_device import CudaDevice
    from narsil_graph.model.weights import load_model

    fbgemm.load_library()
    device = CudaDevice()
    fbgemm.require_device_code(device.torch_device)
    return Rig(load_model(machine.made(path)), path, device, EventClock(), quick)


def cuda_lost() -> bool:
    """Whether an error has taken the whole CUDA context with it."""
    import torch

    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def run(rig: "Rig", names: list[str], report: machine.Report, *, lost: Callable[[], bool]) -> dict[str, Outcome]:
    """Every part on its own: one that fails is reported and the others go on, unless the device is ``lost``."""
    outcomes: dict[str, Outcome] = {}
    for name in names:
        outcomes[name] = _attempt(rig, name)
        for title, rows in outcomes[name].tables.items():
            report.table(title, rows)
        if (problem := outcomes[name].problem) is not None:
            print(f"\n{name} failed: {problem}\n{outcomes[name].traceback}", flush=True)
            if lost():
                print("the device is lost: the remaining parts are left out", flush=True)
                break
    return outcomes


def _attempt(rig: "Rig", name: str) -> Outcome:
    try:
        part: Callable[[Rig], Tables] = getattr(importlib.import_module(f"benchmarks.{PARTS[name]}"), name)
        return Outcome(part(rig))
    except ModuleNotFoundError as missing:
        return Outcome(problem=f"left out, for {missing.name} is not installed here", traceback=traceback.format_exc())
    except SystemExit as error:
        # A server that did not become ready: what it said last is why.
        return Outcome(problem=str(error).strip().splitlines()[-1], traceback=traceback.format_exc())
    except Exception as error:
        first = (str(error).strip() or "no message").splitlines()[0]
        return Outcome(problem=f"{type(error).__name__}: {first}", traceback=traceback.format_exc())


if __name__ == "__main__":
    main()

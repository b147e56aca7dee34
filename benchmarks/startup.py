"""Seconds until a server is ready, memory beyond its weights, and what the two imports that people wait for cost.

python benchmarks/startup.py
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.processes import Served
from narsil_graph.model.weights import load_model

PRECISIONS = ("f32", "bf16", "int8")
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import narsil_client": ["-c", "import narsil_client"],
    "narsil-graph --help": ["-m", "narsil_graph", "--help"],
}


def main() -> None:
    options = machine.parser(__doc__).parse_args()
    report = machine.Report("start-up: from the process to the ready line, every default bucket captured and checked")
    weights_mib = load_model(machine.made(options.model)).weight_bytes / 2**20
    repeats = 1 if options.quick else 5
    servers: dict[str, list[tuple[float, float]]] = {precision: [] for precision in PRECISIONS}
    commands: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for precision, found in servers.items():
            found.append(started(options.model, precision))
        for name, arguments in COMMANDS.items():
            commands[name].append(seconds_of(arguments))
    rows: list[dict[str, object]] = []
    for precision, found in servers.items():
        seconds, mib = np.median(np.array(found), axis=0)
        rows.append({"precision": precision, "ready s": float(seconds), "RSS MiB": float(mib),
                     "weights MiB": weights_mib, "beyond weights MiB": float(mib) - weights_mib})  # fmt: skip
    report.table(f"narsil-graph serve, median of {repeats}", rows)
    report.table(
        f"other processes, whole run, median of {repeats}",
        [{"command": name, "s": float(np.median(values))} for name, values in commands.items()],
    )
    report.write(options.json)


def started(model: Path, precision: str) -> tuple[float, float]:
    """(seconds to the ready line, resident MiB then)."""
    with (
        tempfile.TemporaryDirectory(prefix="narsil-") as folder,
        Served(model, f"ipc://{folder}/s", precision=precision) as server,
    ):
        return server.seconds, server.resident_mib()


def seconds_of(arguments: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()

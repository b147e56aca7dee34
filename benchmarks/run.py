"""Every benchmark with its default settings, one after another.

python benchmarks/run.py --save
"""

import datetime
import re
import subprocess
import sys
from pathlib import Path

from benchmarks import machine

RUNS = (
    ("forward.py", "--threads", "1"),
    ("forward.py", "--threads", "2"),
    ("threads.py",),
    ("served.py", "pinned"),
    ("served.py", "seed-table"),
    ("hot_path.py",),
    ("startup.py",),
)


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/DATE-CPU.txt")
    options = parser.parse_args()
    if options.json is not None:
        parser.error("--json is for one benchmark: its numbers are one file")
    machine.made(options.model)
    output = []
    for run in RUNS:
        command = [sys.executable, str(machine.ROOT / "benchmarks" / run[0]), *run[1:], "--model", str(options.model)]
        command += ["--quick"] * options.quick
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        output.append(done.stdout)
        print(done.stdout, flush=True)
    if options.save:
        path = saved_at()
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(output))
        print(f"wrote {path}")


def saved_at() -> Path:
    cpu = re.sub(r"[^a-z0-9]+", "-", machine.cpu_name().lower()).strip("-")
    return machine.ROOT / "benchmarks" / "results" / f"{datetime.date.today().isoformat()}-{cpu}.txt"


if __name__ == "__main__":
    main()

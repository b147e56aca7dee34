"""What every benchmark shares: the line block that says where numbers come from, the model, the table, the interval."""

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MODEL_CACHE = ROOT / ".venv" / "benchmarks" / "reference.safetensors"
SEED = 0
RESAMPLES = 2000
PACKAGES = (
    *("torch", "fbgemm-gpu-cpu", "fbgemm-gpu", "triton", "cuda-bindings"),
    *("numpy", "pyzmq", "msgpack", "onnxruntime"),
)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every script has."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--model", type=Path, default=MODEL_CACHE, help="model file; made if it does not exist")
    found.add_argument("--quick", action="store_true", help="seconds instead of minutes: only shows that it works")
    found.add_argument("--json", type=Path, help="also write the numbers to this file")
    return found


def made(path: Path) -> Path:
    """``path``, where the reference model has been made if nothing was there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        command = ["make-model", "--preset", "reference", "--seed", str(SEED), "-o", str(path)]
        subprocess.run([sys.executable, "-m", "narsil_graph", *command], check=True, stdout=subprocess.DEVNULL)
    return path


def describe() -> dict[str, str]:
    """Hardware, versions, commit, command and seed."""
    cpus = len(os.sched_getaffinity(0))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "hardware": f"{cpu_name()}, {cpus} cores, {memory_gib:.0f} GiB, {' '.join(instructions())}",
        "load": f"{os.getloadavg()[0]:.2f} runnable processes over the last minute, before this started",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name))),
        "commit": commit(),
        "command": shlex.join(["python", *sys.argv]),
        "seed": str(SEED),
    }


def cpu_name() -> str:
    return next((line.split(": ", 1)[1] for line in _cpuinfo() if line.startswith("model name")), platform.machine())


def instructions() -> list[str]:
    """What matters here of what the processor can do, by the kernel's names."""
    flags = next((line.split() for line in _cpuinfo() if line.startswith("flags")), [])
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return [name for name in known if name in flags]


def _cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text().splitlines()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str:
    def git(*arguments: str) -> str:
        try:
            return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.strip()
        except FileNotFoundError:
            return ""

    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" + changes" if git("status", "--porcelain") else "")


@dataclass(slots=True)
class Report:
    """Prints the header at once and each table when it is complete; ``write`` keeps the same numbers as JSON."""

    title: str
    tables: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=describe)

    def __post_init__(self) -> None:
        print(f"# {self.title}")
        for name, text in self.machine.items():
            print(f"# {name + ':':<10}{text}")

    def table(self, name: str, rows: Sequence[dict[str, object]]) -> None:
        """Every row has the first row's keys; floats are shown with four digits."""
        self.tables[name] = list(rows)
        cells = [[str(key) for key in rows[0]], *([_text(value) for value in row.values()] for row in rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
        print(f"\n{name}")
        for line in cells:
            print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)).rstrip())
        sys.stdout.flush()

    def write(self, path: Path | None) -> None:
        if path is not None:
            path.write_text(json.dumps({"title": self.title, "machine": self.machine, "tables": self.tables}, indent=1))


def _text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median of ``values`` and its bootstrap 95% interval."""
    array = np.asarray(values)
    drawn = np.random.default_rng(SEED).integers(0, len(array), (RESAMPLES, len(array)))
    low, high = np.quantile(np.median(array[drawn], axis=1), (0.025, 0.975))
    return float(np.median(array)), float(low), float(high)


def ratio_text(over: Sequence[float], under: Sequence[float]) -> str:
    """``over`` divided by ``under`` round by round: median and interval, as "2.31 [2.28, 2.35]"."""
    middle, low, high = interval([a / b for a, b in zip(over, under, strict=True)])
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"

"""Which machine costs were measured on, as one word that two machines of a kind share."""

import os
import platform
import re
from pathlib import Path

CPU_FILE = Path("/proc/cpuinfo")


def machine_id(device: str) -> str:
    """For the device cuda its GPU's name, for cpu the processor's and how many cores this process may use."""
    if device == "cuda":
        import torch

        return slug(torch.cuda.get_device_name())
    return slug(f"{_cpu_name()} {len(os.sched_getaffinity(0))} cores")


def slug(name: str) -> str:
    """Lower case, with one dash for whatever is neither letter nor digit."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", CPU_FILE.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.machine()

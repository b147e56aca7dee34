"""Whether torch can use a CUDA device here, told in one sentence before anything else is loaded."""

import importlib
import importlib.metadata
import os
import platform
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from narsil_graph.errors import Failure

DRIVER_FILE = Path("/proc/driver/nvidia/version")
CODE = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


class NoCuda(Failure):
    """There is no CUDA device here that torch can use."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; --device cpu serves without")


def default_device() -> str:
    """``"cuda"`` where torch is a CUDA build, else ``"cpu"``: the build is a choice, a missing device is a fault."""
    return "cpu" if torch.version.cuda is None else "cuda"


def require_cuda() -> None:
    """Start CUDA. Raises NoCuda, naming what is here and what is wanted, where graphs could not be captured."""
    if torch.version.cuda is None:
        raise NoCuda(f"torch {torch.__version__} is built without CUDA: pip install 'narsil-graph[cuda]'")
    _require_device(torch.version.cuda)
    _require_code()
    backend = torch.cuda.get_allocator_backend()
    if backend != "native":
        raise NoCuda(
            f"torch allocates by {backend}, and pools of captured graphs take its native allocator: "
            f"remove backend:{backend} from PYTORCH_CUDA_ALLOC_CONF"
        )


def _require_device(cuda_version: str) -> None:
    try:
        with warnings.catch_warnings():
            # torch warns of a device that it holds no code for; the next check says so in a sentence.
            warnings.simplefilter("ignore")
            torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        reason = _reason(str(error))
        if reason.startswith("No CUDA GPUs"):
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            shown = "not set" if visible is None else repr(visible)
            raise NoCuda(f"no CUDA device is visible (CUDA_VISIBLE_DEVICES is {shown}): one is wanted") from None
        driver = f"a device and a driver for CUDA {cuda_version.split('.')[0]} or newer are wanted"
        raise NoCuda(f"CUDA {cuda_version} does not start ({reason}): {driver}") from None


def _reason(message: str) -> str:
    """What torch says first, or the CUDA error that it quotes last."""
    quoted = re.search(r"Error \d+: .*", message)
    return quoted.group() if quoted else re.split(r"\.? *\n|\. (?=[A-Z])", message)[0]


def _require_code() -> None:
    capability, arch_list = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
    if not covers(arch_list, capability):
        held = ", ".join(arch_list) or "no device"
        raise NoCuda(
            f"{torch.cuda.get_device_name()} has compute capability {_dotted(capability)}, and torch "
            f"{torch.__version__} holds code for {held}: a torch that is built for this device is wanted"
        )


def covers(arch_list: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether code for one of ``arch_list`` ("sm_90", "compute_90a") runs on a device of this compute capability.

    Machine code runs on its own minor version and later ones of the same major, PTX on everything that is as new;
    an "a" holds either to its own capability, an "f" to its major version.
    """
    return any(_runs(code, capability) for code in arch_list)


def _runs(code: str, capability: tuple[int, int]) -> bool:
    found = CODE.fullmatch(code)
    if found is None:
        return False
    kind, major, minor, suffix = found.groups()
    built_for = int(major), int(minor)
    if suffix == "a":
        return built_for == capability
    if kind == "compute" and not suffix:
        return built_for <= capability
    return built_for[0] == capability[0] and built_for[1] <= capability[1]


def describe() -> dict[str, object]:
    """The device, its driver and the versions of what runs on it; None for what is not here.

    ``memory_mib`` is the device's whole memory, ``driver_cuda`` the newest CUDA that the driver serves.
    """
    return {
        **_device(),
        "driver": _driver(),
        "driver_cuda": _driver_cuda(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "fbgemm": _version("fbgemm-gpu") or _version("fbgemm-gpu-cpu"),
        "triton": _version("triton"),
        "python": platform.python_version(),
    }


def _device() -> dict[str, object]:
    with warnings.catch_warnings():
        # An old driver is warned of here; require_cuda is what tells it.
        warnings.simplefilter("ignore")
        if not torch.cuda.is_available():
            return {"device": None, "capability": None, "memory_mib": None}
    memory_bytes = torch.cuda.get_device_properties().total_memory
    return {
        "device": torch.cuda.get_device_name(),
        "capability": _dotted(torch.cuda.get_device_capability()),
        "memory_mib": memory_bytes // 2**20,
    }


def _driver() -> str | None:
    try:
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", DRIVER_FILE.read_text())
    except OSError:
        return None
    return found.group() if found else None


def _driver_cuda() -> str | None:
    try:
        status, version = importlib.import_module("cuda.bindings.runtime").cudaDriverGetVersion()
    except ImportError:
        return None
    # CUDA writes 12.4 as 12040, and 0 where there is no driver.
    return None if status or not version else _dotted((version // 1000, version % 1000 // 10))


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None

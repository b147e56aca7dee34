"""Where torch cannot use a CUDA device, one sentence says why, before anything else is loaded."""

import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from narsil_graph.engine import cuda_support
from narsil_graph.engine.cuda_support import NoCuda, covers, default_device, describe, require_cuda

# torch 2.11.0's CUDA 13.0 wheel.
WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


def nothing() -> None:
    """CUDA starts."""


def raising(error: Exception) -> Callable[[], None]:
    def init() -> None:
        raise error

    return init


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """torch as it answers on one H200 that works; tests break one answer."""
    monkeypatch.setattr(torch, "__version__", "2.11.0+cu130")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", nothing)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: SimpleNamespace(total_memory=143_771 << 20))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: WHEEL)
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "native")
    return monkeypatch


def refusal() -> str:
    with pytest.raises(NoCuda) as caught:
        require_cuda()
    sentence = str(caught.value)
    assert sentence.endswith("; --device cpu serves without")
    assert "\n" not in sentence
    return sentence


@pytest.mark.usefixtures("hopper")
def test_device_that_works_is_not_refused() -> None:
    require_cuda()


def test_torch_without_cuda_is_refused(hopper: pytest.MonkeyPatch) -> None:
    hopper.setattr(torch.version, "cuda", None)
    assert "built without CUDA: pip install 'narsil-graph[cuda]'" in refusal()


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is a CUDA build")
def test_cpu_build_of_torch_is_refused_in_earnest() -> None:
    assert refusal().startswith(f"torch {torch.__version__} is built without CUDA")


@pytest.mark.skipif(torch.version.cuda is None, reason="torch is a CPU build")
def test_missing_driver_is_refused_in_earnest() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a driver")
    assert "(Found no NVIDIA driver on your system)" in refusal()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver "
            "from http://www.nvidia.com/Download/index.aspx",
            "Found no NVIDIA driver on your system",
        ),
        (
            "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver by "
            "downloading and installing a new version",
            "The NVIDIA driver on your system is too old (found version 12040)",
        ),
        (
            "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
            "NumCudaDevices() that might have already set an error? Error 803: system has unsupported display driver / "
            "cuda driver combination",
            "Error 803: system has unsupported display driver / cuda driver combination",
        ),
        (
            "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable "
            "CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero.",
            "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable "
            "CUDA_VISIBLE_DEVICES after program start",
        ),
        ("CUDA error: out of memory\nCUDA kernel errors might be reported later.", "CUDA error: out of memory"),
    ],
)
def test_driver_that_does_not_start_is_refused_by_torchs_first_sentence(
    hopper: pytest.MonkeyPatch, message: str, reason: str
) -> None:
    hopper.setattr(torch.cuda, "init", raising(RuntimeError(message)))
    assert refusal().startswith(
        f"CUDA 13.0 does not start ({reason}): a device and a driver for CUDA 13 or newer are wanted"
    )


def test_failure_that_torch_deferred_is_refused_too(hopper: pytest.MonkeyPatch) -> None:
    hopper.setattr(torch.cuda, "init", raising(torch.cuda.DeferredCudaCallError("CUDA call failed.\n\nat: ...")))
    assert "(CUDA call failed)" in refusal()


@pytest.mark.parametrize(("visible", "shown"), [(None, "not set"), ("", "''"), ("7", "'7'")])
def test_no_visible_device_is_refused_with_what_hides_it(
    hopper: pytest.MonkeyPatch, visible: str | None, shown: str
) -> None:
    hopper.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        hopper.setenv("CUDA_VISIBLE_DEVICES", visible)
    hopper.setattr(torch.cuda, "init", raising(RuntimeError("No CUDA GPUs are available")))
    assert refusal().startswith(f"no CUDA device is visible (CUDA_VISIBLE_DEVICES is {shown}): one is wanted")


def test_device_that_torch_holds_no_code_for_is_refused(hopper: pytest.MonkeyPatch) -> None:
    hopper.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    hopper.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    sentence = refusal()
    assert sentence.startswith("Tesla V100 has compute capability 7.0, and torch 2.11.0+cu130 holds code for sm_75, ")


def test_torchs_own_warning_of_an_old_device_is_not_printed(hopper: pytest.MonkeyPatch) -> None:
    hopper.setattr(torch.cuda, "init", lambda: warnings.warn("several lines", stacklevel=1))
    require_cuda()


def test_asynchronous_allocator_is_refused(hopper: pytest.MonkeyPatch) -> None:
    hopper.setattr(torch.cuda, "get_allocator_backend", lambda: "cudaMallocAsync")
    assert "remove backend:cudaMallocAsync from PYTORCH_CUDA_ALLOC_CONF" in refusal()


@pytest.mark.parametrize(
    ("arch_list", "capability", "covered"),
    [
        (WHEEL, (9, 0), True),
        (WHEEL, (8, 9), True),
        (WHEEL, (10, 3), True),
        (WHEEL, (12, 1), True),
        (WHEEL, (7, 0), False),
        (WHEEL, (11, 0), False),
        ([], (9, 0), False),
        (["sm_86"], (8, 0), False),
        (["sm_80"], (9, 0), False),
        (["compute_80"], (9, 0), True),
        (["compute_90"], (12, 0), True),
        (["compute_90"], (8, 9), False),
        (["sm_90a"], (9, 0), True),
        (["sm_100a"], (10, 3), False),
        (["compute_90a"], (10, 0), False),
        (["compute_100f"], (10, 3), True),
        (["compute_100f"], (12, 0), False),
        (["compute_103f"], (10, 0), False),
        (["gfx90a", ""], (9, 0), False),
    ],
)
def test_code_covers_the_devices_that_can_run_it(
    arch_list: list[str], capability: tuple[int, int], covered: bool
) -> None:
    assert covers(arch_list, capability) is covered


def test_build_of_torch_chooses_the_default_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert default_device() == "cuda"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert default_device() == "cpu"


def test_description_names_the_device_and_what_runs_on_it(hopper: pytest.MonkeyPatch, tmp_path: Path) -> None:
    proc = tmp_path / "version"
    proc.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC 13.3.0\n")
    hopper.setattr(cuda_support, "DRIVER_FILE", proc)
    hopper.setitem(sys.modules, "cuda.bindings.runtime", SimpleNamespace(cudaDriverGetVersion=lambda: (0, 13010)))
    found = describe()
    assert found["device"] == "NVIDIA H200"
    assert (found["capability"], found["memory_mib"]) == ("9.0", 143_771)
    assert (found["driver"], found["driver_cuda"]) == ("580.95.05", "13.1")
    assert (found["cuda"], found["torch"]) == ("13.0", "2.11.0+cu130")


def test_description_is_whole_where_there_is_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: warnings.warn("old driver", stacklevel=1))
    monkeypatch.setattr(cuda_support, "DRIVER_FILE", tmp_path / "absent")
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    found = describe()
    assert [found[key] for key in ("device", "capability", "memory_mib", "driver", "driver_cuda")] == [None] * 5
    assert found["fbgemm"]
    assert (found["triton"] is None) == (importlib.util.find_spec("triton") is None)
    assert json.loads(json.dumps(found)) == found

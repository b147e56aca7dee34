"""What contradicts itself, or needs more than the device has, is refused before anything is captured."""

from dataclasses import replace

import pytest
import torch

from narsil_graph import build
from narsil_graph.build import EngineConfig, build_engine, refuse_beyond_memory
from narsil_graph.engine import fbgemm
from narsil_graph.engine.cpu_plan import CpuPlan
from narsil_graph.engine.cuda_support import NoCuda
from narsil_graph.engine.eager import EagerForward
from narsil_graph.engine.graph_options import Completion, GraphOptions, Kernels
from narsil_graph.engine.launcher import Precision
from narsil_graph.errors import Failure, UsageFailure
from tests.engine.tape import TapeDevice
from tests.engine.tiny import tiny_model

CPU = EngineConfig(device="cpu", bucket_rows=(1, 8))
CUDA = EngineConfig(device="cuda", bucket_rows=(1, 8))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", [*Precision])
def test_precision_runs_where_it_has_kernels(device: str, precision: Precision) -> None:
    runs = {
        "cpu": (Precision.F32, Precision.BF16, Precision.INT8),
        "cuda": (Precision.F32, Precision.TF32, Precision.BF16, Precision.FP16),
    }
    if precision in runs[device]:
        assert EngineConfig(device=device, bucket_rows=(1,), precision=precision).precision is precision
    else:
        with pytest.raises(UsageFailure, match=f"{precision.value} does not run on --device {device}: want one of f32"):
            EngineConfig(device=device, bucket_rows=(1,), precision=precision)


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.INT8])
def test_eager_on_a_cpu_is_float32_or_refused(precision: Precision) -> None:
    with pytest.raises(UsageFailure, match=f"computes in f32: there is no --precision {precision.value}"):
        replace(CPU, engine="eager", precision=precision)
    assert replace(CUDA, engine="eager", precision=Precision.BF16).precision is Precision.BF16


@pytest.mark.parametrize(
    ("option", "value"),
    [("lanes", 2), ("kernels", Kernels.TRITON), ("completion", Completion.SEQUENCE), ("graph_memory_mib", 8)],
)
def test_options_of_graphs_are_for_cuda(option: str, value: object) -> None:
    named = f"--{option.removesuffix('_mib').replace('_', '-')} is for --device cuda"
    with pytest.raises(UsageFailure, match=named):
        replace(CPU, **{option: value})  # type: ignore[arg-type]
    assert getattr(replace(CUDA, **{option: value}), option) == value  # type: ignore[arg-type]


def test_bucket_has_room_for_one_id_in_each_feature() -> None:
    with pytest.raises(UsageFailure, match="--ids-per-row 2 has no room for one id in each of 3 features"):
        build_engine(tiny_model(), replace(CPU, ids_per_row=2))
    assert build_engine(tiny_model(), replace(CPU, ids_per_row=3)).ladder.ids_max == 24
    assert build_engine(tiny_model(), CPU).ladder.ids_max == 8 * 4 * 3


def test_cpu_has_two_launchers() -> None:
    assert isinstance(build_engine(tiny_model(), CPU).launcher, CpuPlan)
    assert isinstance(build_engine(tiny_model(), replace(CPU, engine="eager")).launcher, EagerForward)


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is a CUDA build")
@pytest.mark.parametrize("engine", ["plan", "eager"])
def test_cuda_is_never_replaced_by_the_cpu(engine: str) -> None:
    with pytest.raises(NoCuda, match=r"built without CUDA.*--device cpu"):
        build_engine(tiny_model(), replace(CUDA, engine=engine))


def test_device_is_looked_at_before_fbgemm_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise NoCuda("no driver")

    def loaded() -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(build, "require_cuda", refused)
    monkeypatch.setattr(fbgemm, "load_library", loaded)
    with pytest.raises(NoCuda):
        build_engine(tiny_model(), CUDA)


def test_graphs_beyond_the_budget_are_refused_with_the_arithmetic() -> None:
    model, config = tiny_model(), replace(CUDA, graph_memory_mib=8)
    with pytest.raises(UsageFailure, match=r"--graph-memory 8 MiB is less than the .* MiB that 2 buckets"):
        refuse_beyond_memory(model, config, config.ladder(3), TapeDevice())


def test_graphs_beyond_the_device_are_refused_with_the_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    model, device = tiny_model(), TapeDevice()
    monkeypatch.setattr(device, "free_bytes", lambda: 1 << 20)
    with pytest.raises(Failure, match=r"the device has 1\.0 MiB free"):
        refuse_beyond_memory(model, CUDA, CUDA.ladder(3), device)


def test_what_fits_is_not_refused() -> None:
    config = replace(CUDA, graph_memory_mib=1024)
    refuse_beyond_memory(tiny_model(), config, config.ladder(3), TapeDevice())


@pytest.mark.parametrize("wrong", [{"lanes": 0}, {"slots_per_lane": 0}, {"precision": Precision.INT8}])
def test_impossible_options_cannot_be_made(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="want"):
        GraphOptions(**wrong)  # type: ignore[arg-type]

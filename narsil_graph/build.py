"""From what the command line says to an engine: which device, which launcher, which buckets."""

from dataclasses import dataclass

import torch

from narsil_graph.engine import fbgemm
from narsil_graph.engine.cpu_plan import ALLOWED, CpuPlan
from narsil_graph.engine.cuda_device import CudaDevice
from narsil_graph.engine.cuda_graph import CudaGraphs
from narsil_graph.engine.cuda_support import require_cuda
from narsil_graph.engine.device import Device
from narsil_graph.engine.eager import EagerForward
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.forward import DTYPES
from narsil_graph.engine.graph_memory import GraphMemory
from narsil_graph.engine.graph_options import Completion, GraphOptions, Kernels
from narsil_graph.engine.launcher import Launcher, Precision
from narsil_graph.errors import Failure, UsageFailure
from narsil_graph.model.weights import Model
from narsil_transport.buckets import BucketLadder

# Room for ids in each row of a bucket, per feature. Host memory is cheap, and a lookup costs what it reads.
IDS_PER_FEATURE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How batches are run. ``device`` is cpu or cuda; ``engine`` plan (captured) or eager."""

    device: str
    bucket_rows: tuple[int, ...]
    engine: str = "plan"
    precision: Precision = Precision.F32
    ids_per_row: int | None = None
    kernels: Kernels = Kernels.FBGEMM
    lanes: int = 1
    slots: int = 2
    completion: Completion = Completion.EVENT
    graph_memory_mib: int | None = None

    def __post_init__(self) -> None:
        known = DTYPES if self.device == "cuda" else ALLOWED
        if self.precision not in known:
            raise UsageFailure(
                f"--precision {self.precision.value} does not run on --device {self.device}: "
                f"want one of {', '.join(precision.value for precision in known)}"
            )
        if self.device == "cpu" and self.engine == "eager" and self.precision is not Precision.F32:
            raise UsageFailure(
                f"--engine eager on a CPU computes in f32: there is no --precision {self.precision.value}"
            )
        graphs_only = {
            "--lanes": self.lanes > 1,
            "--kernels": self.kernels is not Kernels.FBGEMM,
            "--completion": self.completion is not Completion.EVENT,
            "--graph-memory": self.graph_memory_mib is not None,
        }
        asked = [option for option, given in graphs_only.items() if given]
        if self.device == "cpu" and asked:
            raise UsageFailure(f"{asked[0]} is for --device cuda, and this is --device cpu")

    def ladder(self, features: int) -> BucketLadder:
        """The buckets for a model of that many sparse features."""
        if self.ids_per_row is not None and self.ids_per_row < features:
            raise UsageFailure(
                f"--ids-per-row {self.ids_per_row} has no room for one id in each of {features} features"
            )
        return BucketLadder.from_rows(self.bucket_rows, ids_per_row=self.ids_per_row or IDS_PER_FEATURE * features)


def build_engine(model: Model, config: EngineConfig) -> Engine:
    """An engine with nothing captured yet. Whatever the device lacks is a Failure before any of it is used."""
    ladder = config.ladder(len(model.spec.sparse_features))
    if config.device == "cuda":
        require_cuda()
    fbgemm.load_library()
    return Engine(_cuda(model, config, ladder) if config.device == "cuda" else _cpu(model, config), ladder)


def _cpu(model: Model, config: EngineConfig) -> Launcher:
    return EagerForward(model) if config.engine == "eager" else CpuPlan(model, config.precision)


def _cuda(model: Model, config: EngineConfig, ladder: BucketLadder) -> Launcher:
    device = CudaDevice()
    fbgemm.require_device_code(device.torch_device)
    if config.engine == "eager":
        device.allow_tf32(config.precision is Precision.TF32)
        return EagerForward(model, device.torch_device, config.precision)
    refuse_beyond_memory(model, config, ladder, device)
    options = GraphOptions(
        precision=config.precision,
        kernels=config.kernels,
        lanes=config.lanes,
        slots_per_lane=config.slots,
        completion=config.completion,
    )
    return CudaGraphs(model, device, options)


def graph_memory(model: Model, config: EngineConfig, ladder: BucketLadder) -> GraphMemory:
    """What the graphs of ``ladder`` need on a CUDA device."""
    dtype: torch.dtype = DTYPES[config.precision]
    return GraphMemory(
        spec=model.spec,
        ladder=ladder,
        dense_bytes=dtype.itemsize,
        lanes=config.lanes,
        slots_per_lane=config.slots,
    )


def refuse_beyond_memory(model: Model, config: EngineConfig, ladder: BucketLadder, device: Device) -> None:
    """A Failure with the arithmetic where the graphs need more than they may have, or than the device has."""
    memory = graph_memory(model, config, ladder)
    if config.graph_memory_mib is not None and (refusal := memory.refusal(config.graph_memory_mib)) is not None:
        raise UsageFailure(refusal)
    short = memory.refusal_for_free(free_bytes=device.free_bytes(), weight_bytes=memory.weight_bytes)
    if short is not None:
        raise Failure(short)

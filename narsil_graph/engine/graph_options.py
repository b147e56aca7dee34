"""How CUDA graphs are captured and seen to have finished."""

import enum
from dataclasses import dataclass

from narsil_graph.engine.forward import DTYPES
from narsil_graph.engine.launcher import Precision


class Completion(enum.Enum):
    """How a launch is seen to have finished: by its event, or first by the sequence word that its copy out carries."""

    EVENT = "event"
    SEQUENCE = "sequence"


class Kernels(enum.Enum):
    """What gathers and multiplies the vectors: FBGEMM's lookup and torch's products, or one fused Triton kernel."""

    FBGEMM = "fbgemm"
    TRITON = "triton"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphOptions:
    """How to capture. A lane is a stream with its own pool; its slots let one batch be filled while another runs."""

    precision: Precision = Precision.F32
    kernels: Kernels = Kernels.FBGEMM
    lanes: int = 1
    slots_per_lane: int = 2
    completion: Completion = Completion.EVENT

    def __post_init__(self) -> None:
        if self.precision not in DTYPES:
            raise ValueError(f"want one of {[precision.value for precision in DTYPES]}, got {self.precision.value}")
        if self.lanes < 1 or self.slots_per_lane < 1:
            raise ValueError(f"want at least one lane and one slot, got {self.lanes} and {self.slots_per_lane}")

"""The whole forward as a frozen TorchScript file, with the widths of its inputs beside it.

python -m benchmarks.peers.torchscript_grpc.export MODEL OUT
"""

import sys
import warnings
from pathlib import Path

import torch

from benchmarks.peers.torchscript_forward import WholeForward
from narsil_graph.engine import fbgemm
from narsil_graph.model.weights import load_model

EXAMPLE_ROWS = 8


def main() -> None:
    fbgemm.load_library()
    model = load_model(Path(sys.argv[1]))
    widths = len(model.spec.dense_features), len(model.spec.sparse_features)
    module = WholeForward(model, torch.device("cpu"), torch.float32).eval()
    example = torch.zeros(EXAMPLE_ROWS, widths[0]), torch.zeros(EXAMPLE_ROWS, widths[1], dtype=torch.int32)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        frozen = torch.jit.freeze(torch.jit.trace(module, example))  # type: ignore[no-untyped-call]
        torch.jit.save(frozen, sys.argv[2], _extra_files={"widths": " ".join(map(str, widths))})


if __name__ == "__main__":
    main()

"""ONNX Runtime, with FBGEMM's lookup before it, behind mosec.

MODEL=FILE REQUESTS_MAX=2 python -m benchmarks.peers.onnxruntime_server --address 127.0.0.1 --port PORT
"""

from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.batched import RowForward
from benchmarks.peers.mosec_server import Scorer, serve
from benchmarks.peers.onnx_forward import onnx_forward
from benchmarks.peers.wire import Floats, Int32s
from narsil_graph.engine import fbgemm
from narsil_graph.engine.forward import flat_rows, table_batched_lookup
from narsil_graph.model.weights import load_model


class OnnxForward:
    """No operator of ONNX reads rows of int8 with a scale: the tables stay FBGEMM's, as for every other peer."""

    def __init__(self, path: Path) -> None:
        fbgemm.load_library()
        torch.set_num_threads(1)
        model = load_model(path)
        self.dense_width = len(model.spec.dense_features)
        self.features = len(model.spec.sparse_features)
        self._lookup = table_batched_lookup(model.spec, *flat_rows(model, 1), torch.float32, 1)
        self._dense_part = onnx_forward(model, threads=1)

    @torch.inference_mode()
    def __call__(self, dense: Floats, ids: Int32s) -> Floats:
        """Scores f4 [n] of dense f4 [n, D] and ids i4 [n, F], one id per feature."""
        indices = torch.from_numpy(np.ascontiguousarray(ids.T).ravel())
        offsets = torch.arange(indices.numel() + 1, dtype=torch.int32)
        return self._dense_part(torch.tensor(dense), self._lookup(indices, offsets))


class OnnxScorer(Scorer):
    def load(self, model: Path) -> RowForward:
        return OnnxForward(model)


if __name__ == "__main__":
    serve(OnnxScorer)

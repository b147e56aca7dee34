"""The model in eager PyTorch with FBGEMM's lookup: the forward of every peer that serves Python code."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narsil_graph.engine import fbgemm
from narsil_graph.engine.forward import Forward
from narsil_graph.model.weights import load_model


class ReferenceEager:
    """Callable from several threads at once; torch releases the GIL while it computes, on one thread per call."""

    def __init__(self, path: Path) -> None:
        """Raises ModelFileError for a file that is no model, LibraryError where torch and FBGEMM do not fit."""
        fbgemm.load_library()
        torch.set_num_threads(1)
        model = load_model(path)
        self.dense_width = len(model.spec.dense_features)
        self.features = len(model.spec.sparse_features)
        self._forward = Forward(model, place=_in_place)

    @torch.inference_mode()
    def __call__(self, dense: NDArray[np.float32], ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Scores f4 [n] of dense f4 [n, D] and ids i4 [n, F], one id per feature."""
        indices = torch.from_numpy(np.ascontiguousarray(ids.T).ravel())
        offsets = torch.arange(indices.numel() + 1, dtype=torch.int32)
        scores: NDArray[np.float32] = self._forward(torch.tensor(dense), indices, offsets, None).numpy()
        return scores


def _in_place(tensor: Tensor) -> Tensor:
    return tensor

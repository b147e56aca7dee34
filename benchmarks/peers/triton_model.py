"""Triton's Python backend runs this: eager PyTorch + FBGEMM on all rows of the requests that Triton has gathered."""

import os
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as backend  # type: ignore[import-not-found]

from benchmarks.peers.reference_eager import ReferenceEager


class TritonPythonModel:
    """The name is Triton's."""

    def initialize(self, args: object) -> None:
        self._model = ReferenceEager(Path(os.environ["MODEL"]))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        if len(requests) == 1:
            return [_response(self._model(*_inputs(requests[0])))]
        dense, ids = zip(*map(_inputs, requests), strict=True)
        scores = self._model(np.concatenate(dense), np.concatenate(ids))
        ends = list(accumulate(map(len, dense)))
        return [_response(part) for part in np.split(scores, ends[:-1])]


def _inputs(request: Any) -> tuple[Any, Any]:
    dense, ids = (backend.get_input_tensor_by_name(request, name).as_numpy() for name in ("DENSE", "IDS"))
    return dense, ids


def _response(scores: Any) -> Any:
    return backend.InferenceResponse([backend.Tensor("SCORES", scores[:, None])])

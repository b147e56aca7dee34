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
        dense, ids = (np.concatenate([_input(request, name) for request in requests]) for name in ("DENSE", "IDS"))
        scores = self._model(dense, ids)
        ends = list(accumulate(len(_input(request, "DENSE")) for request in requests))
        return [_response(part) for part in np.split(scores, ends[:-1])]


def _input(request: Any, name: str) -> Any:
    return backend.get_input_tensor_by_name(request, name).as_numpy()


def _response(scores: Any) -> Any:
    return backend.InferenceResponse([backend.Tensor("SCORES", scores[:, None])])

"""Intermediate buffers that all programs of one lane share."""

import torch
from torch import Tensor


class Scratch:
    """Named buffers, allocated at their first (largest) use and handed out as prefixes to smaller buckets.

    Sharing is safe because a lane runs one program at a time and every program writes what it reads. Buckets are
    captured largest first, so that one allocation serves them all.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, tuple[int, ...], torch.dtype], Tensor] = {}

    def take(self, name: str, rows: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Zeros at first use: [rows, *shape] of ``dtype``, contiguous."""
        key = (name, shape, dtype)
        buffer = self._buffers.get(key)
        if buffer is None or len(buffer) < rows:
            buffer = self._buffers[key] = torch.zeros(rows, *shape, dtype=dtype)
        return buffer[:rows]

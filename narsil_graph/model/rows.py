"""Embedding rows: float32 values to stored bytes and back, in FBGEMM's row layouts.

A quantised row is [float16 scale][float16 bias][codes] and stands for ``code * scale + bias``; INT4 packs two
codes a byte, the lower half first. The layouts were checked bit for bit against FBGEMM's lookup
(tests/engine/test_fbgemm.py).
"""

import numpy as np
from numpy.typing import NDArray

from narsil_graph.model.spec import RowFormat

Rows = NDArray[np.uint8]
Values = NDArray[np.float32]


def quantise(values: Values, row_format: RowFormat) -> Rows:
    """Store float32 ``values`` [rows, dim] as bytes [rows, row_bytes], with the smallest error per row."""
    if row_format is RowFormat.FP32:
        return np.ascontiguousarray(values, np.float32).view(np.uint8)
    if row_format is RowFormat.FP16:
        return values.astype(np.float16).view(np.uint8)
    levels = 255 if row_format is RowFormat.INT8 else 15
    bias = values.min(axis=1).astype(np.float16)
    span = values.max(axis=1) - bias.astype(np.float32)
    scale = np.maximum(span / levels, np.float32(np.finfo(np.float16).smallest_subnormal)).astype(np.float16)
    codes = np.rint((values - bias[:, None].astype(np.float32)) / scale[:, None].astype(np.float32))
    codes = np.clip(codes, 0, levels).astype(np.uint8)
    if row_format is RowFormat.INT4:
        codes = codes[:, 0::2] | (codes[:, 1::2] << 4)
    head = np.stack([scale, bias], axis=1).view(np.uint8)
    return np.concatenate([head, codes], axis=1)


def dequantise(rows: Rows, row_format: RowFormat) -> Values:
    """The float32 values [rows, dim] that stored bytes [rows, row_bytes] stand for."""
    if row_format is RowFormat.FP32:
        return np.ascontiguousarray(rows).view(np.float32)
    if row_format is RowFormat.FP16:
        return np.ascontiguousarray(rows).view(np.float16).astype(np.float32)
    head = np.ascontiguousarray(rows[:, :4]).view(np.float16).astype(np.float32)
    codes = rows[:, 4:]
    if row_format is RowFormat.INT4:
        codes = np.stack([codes & 15, codes >> 4], axis=2).reshape(len(rows), 2 * codes.shape[1])
    return codes.astype(np.float32) * head[:, :1] + head[:, 1:]

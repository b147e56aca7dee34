"""Gather and interaction as one Triton kernel: what ``--kernels triton`` captures in place of FBGEMM's lookup."""

import subprocess
from typing import Any

import torch
from torch import Tensor

from narsil_graph.errors import Failure
from narsil_graph.model.spec import ModelSpec, Pooling, RowFormat

KERNEL_NAME = "narsil_gather_interact"
# A load of 16 bytes, the widest there is; rows are padded to it.
UNIT_BYTES = 16
CELL_DTYPES = {
    RowFormat.FP32: torch.float32,
    RowFormat.FP16: torch.float16,
    RowFormat.INT8: torch.uint8,
    RowFormat.INT4: torch.uint8,
}
# tl.dot takes no side below 16. Blocks of 32 vectors by 64 columns fit the registers of 128 threads: of 256 variants
# compiled for sm_80 and sm_90 (Triton 3.6), one spilled, 4 bytes; blocks of 64 by 64 in float32 spilled kilobytes.
SIDE_MIN, VECTORS_MAX, COLUMNS_MAX = 16, 32, 64


class TritonUnavailable(Failure):
    """The Triton kernel cannot serve this model or run on this machine; the message is one sentence."""


class TritonInteraction:
    """Pools each feature's rows and returns the over arch's input: [bottom, the dots of every pair of vectors].

    ``rows`` uint8, flat, holds the stored rows, each padded to ``row_bytes``, a multiple of 16; ``begins`` int64 [T]
    is the first byte of each feature's table in it. Both lie on the device and are read at every call, so rows may be
    rewritten in place. ``dtype`` (float32, float16 or bfloat16) is that of the vectors and of the result; sums are
    float32 always. ``tf32`` lets float32 products be made of TF32's ten-bit mantissas. Raises TritonUnavailable.
    """

    def __init__(
        self,
        *,
        spec: ModelSpec,
        rows: Tensor,
        begins: Tensor,
        row_bytes: int,
        dtype: torch.dtype,
        tf32: bool = False,
    ) -> None:
        formats = {table.format for table in spec.tables}
        if len(formats) != 1:
            names = ", ".join(sorted(row_format.value for row_format in formats))
            raise TritonUnavailable(f"the Triton kernel reads one row format, and the model has {names}: use fbgemm")
        row_format = formats.pop()
        if row_bytes % UNIT_BYTES or row_bytes < row_format.row_bytes(spec.dim) or bool((begins % UNIT_BYTES).any()):
            raise ValueError(f"rows of {row_bytes} bytes at {begins.tolist()} are not padded to {UNIT_BYTES} bytes")
        self._kernel = _kernel()
        tables, device = spec.feature_tables, rows.device
        self._dtype, self._over_width = dtype, spec.over_width
        self._tables = (
            rows.view(CELL_DTYPES[row_format]),
            rows.view(torch.float16),
            begins // UNIT_BYTES,
            torch.tensor([table.rows - 1 for table in tables], dtype=torch.int32, device=device),
            torch.tensor([table.pooling is Pooling.MEAN for table in tables], dtype=torch.int32, device=device),
        )
        tile = _side(spec.vectors, most=VECTORS_MAX)
        self._tiles = -(-spec.vectors // tile)
        self._constants = {
            "FEATURES": len(tables),
            "DIM": spec.dim,
            "TILE": tile,
            "STEP": _side(spec.dim, most=COLUMNS_MAX),
            "ROW_UNITS": row_bytes // UNIT_BYTES,
            "FORMAT": row_format.value,
            "PRECISION": "tf32" if tf32 else "ieee",
        }

    def __call__(self, bottom: Tensor, values: Tensor, offsets: Tensor | None) -> Tensor:
        """[B, dim + V*(V-1)/2] of bottom [B, dim] and ids, both sample-major; V = T + 1.

        ``values`` int32 [ids] is clamped to the tables. ``offsets`` int32 [B*T+1] says where in it each bag lies;
        None: each bag is one id. Launches one kernel on the current stream; the first call for a shape compiles.
        """
        top = torch.empty(len(bottom), self._over_width, dtype=self._dtype, device=bottom.device)
        one_id = offsets is None
        self._kernel[(len(bottom), self._tiles, self._tiles)](
            top, bottom, *self._tables, values, values if offsets is None else offsets, ONE_ID=one_id, **self._constants
        )
        return top


def _side(count: int, *, most: int) -> int:
    """The power of two that holds ``count``, or the ``most`` that a block takes, where several blocks hold it."""
    return min(most, max(SIDE_MIN, 1 << (count - 1).bit_length()))


def _kernel() -> Any:
    """The kernel, once it is known that it can be launched."""
    try:
        from triton import JITFunction  # pyright: ignore[reportMissingImports]
        from triton.runtime import driver  # pyright: ignore[reportMissingImports]

        from narsil_graph.engine.triton_kernel import narsil_gather_interact
    except ModuleNotFoundError as missing:
        raise TritonUnavailable(f"the Triton kernel needs {missing.name}: pip install triton==3.6.0") from None
    kernel: Any = narsil_gather_interact
    if isinstance(kernel, JITFunction):
        try:
            driver.active.get_current_target()
        # The driver module is C that Triton compiles on first use.
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            raise TritonUnavailable(f"Triton cannot launch kernels here: {error}") from None
    return kernel

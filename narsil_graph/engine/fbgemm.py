"""FBGEMM's quantised table-batched lookup, by its raw operator, from its inference library alone.

``import fbgemm_gpu`` is never run: it costs 350 ms and 48 MB where this one library costs 7 ms and 2 MB. Skipping it
also skips FBGEMM's own check that it fits the installed torch, so the check is made here.
"""

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from narsil_graph.errors import Failure
from narsil_graph.model.spec import Pooling, RowFormat

# FBGEMM is built against one torch: the C++ ABI between them is exact (FBGEMM's own compatibility table).
TORCH_OF_FBGEMM = {"1.6": "2.11", "1.7": "2.12", "1.8": "2.13"}
# SparseType in FBGEMM's split_embedding_configs.
FORMAT_CODES = {RowFormat.FP32: 0, RowFormat.FP16: 1, RowFormat.INT8: 2, RowFormat.INT4: 3}
DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 5}
POOLING_CODES = {Pooling.SUM: 0, Pooling.MEAN: 1}
LOCATION_DEVICE = 0
LOCATION_HOST = 3


class LibraryError(Failure):
    """torch and FBGEMM do not fit, or FBGEMM is absent; the message names the pair to install."""


def check_pair(torch_version: str, fbgemm_version: str) -> None:
    """Raise LibraryError unless the two versions are one ABI pair."""
    torch_minor = ".".join(torch_version.split("+")[0].split(".")[:2])
    fbgemm_minor = ".".join(fbgemm_version.split("+")[0].split(".")[:2])
    pairs = ", ".join(f"torch {t} with FBGEMM {f}" for f, t in TORCH_OF_FBGEMM.items())
    if TORCH_OF_FBGEMM.get(fbgemm_minor) != torch_minor:
        raise LibraryError(f"torch {torch_version} and FBGEMM {fbgemm_version} do not fit; the pairs are {pairs}")


def load_library() -> None:
    """Register ``torch.ops.fbgemm``'s inference lookup. Raises LibraryError when FBGEMM is absent or does not fit."""
    spec = importlib.util.find_spec("fbgemm_gpu")
    if spec is None or spec.origin is None:
        raise LibraryError("FBGEMM is not installed: pip install 'narsil-graph[cpu]' (or [cuda])")
    check_pair(torch.__version__, _installed_version())
    # Of a torch built for CUDA, lookups on the host would allocate each result in page-locked memory.
    os.environ.setdefault("FBGEMM_TBE_CPU_OUTPUT_DISABLE_PINNED_MEMORY", "1")
    library = Path(spec.origin).parent / "fbgemm_gpu_tbe_inference.so"
    try:
        torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise LibraryError(f"cannot load {library}: {error}") from None


def _installed_version() -> str:
    for distribution in ("fbgemm-gpu-cpu", "fbgemm-gpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise LibraryError("fbgemm_gpu is importable but has no version: install fbgemm-gpu-cpu or fbgemm-gpu")


def require_device_code(device: torch.device) -> None:
    """Raise LibraryError unless FBGEMM's lookup runs on ``device``: its library has code for few GPU architectures."""
    lookup = bind_lookup(
        weights=torch.zeros(16, dtype=torch.uint8, device=device),
        tables=[LookupTable(0, 1, RowFormat.FP32)],
        dim=4,
        pooling=Pooling.SUM,
        output=torch.float32,
        row_alignment_bytes=16,
    )
    try:
        indices, offsets = (torch.tensor(words, dtype=torch.int32, device=device) for words in ([0], [0, 1]))
        lookup(indices, offsets).cpu()
    except RuntimeError as error:
        raise LibraryError(
            f"FBGEMM {_installed_version()} does not run on {torch.cuda.get_device_name(device)}: "
            f"{str(error).splitlines()[0]}"
        ) from None


@dataclass(frozen=True, slots=True)
class LookupTable:
    """One logical table inside a flat weight buffer: where it begins and how it is stored."""

    begin_bytes: int
    rows: int
    format: RowFormat


Lookup = Callable[..., Tensor]


def bind_lookup(
    *,
    weights: Tensor,
    tables: Sequence[LookupTable],
    dim: int,
    pooling: Pooling,
    output: torch.dtype,
    row_alignment_bytes: int = 1,
) -> Lookup:
    """Bind FBGEMM's lookup to flat uint8 ``weights``, on whose device it then runs.

    The result maps (indices int32, offsets int32 [T*B+1], sample_weights float32 or None) in key-major order to
    [B, T*dim] of ``output``. Indices are trusted: the door has checked them.
    """
    op = torch.ops.fbgemm.int_nbit_split_embedding_codegen_lookup_function.default
    device = weights.device
    dims = {table.format: dim for table in tables}
    location = LOCATION_HOST if device.type == "cpu" else LOCATION_DEVICE
    # The CUDA operator wants every tensor on its device, those that only say "nothing here" included.
    where = (
        weights,
        torch.empty(0, dtype=torch.uint8, device=device),  # uvm_weights
        torch.full((len(tables),), location, dtype=torch.int32, device=device),
        torch.tensor([table.begin_bytes for table in tables], dtype=torch.int64, device=device),
        torch.tensor([FORMAT_CODES[table.format] for table in tables], dtype=torch.uint8, device=device),
        torch.from_numpy(np.arange(len(tables) + 1, dtype=np.int32) * dim).to(device),
        dim * len(tables),
        0,  # max_int2_D
        *(dims.get(row_format, 0) for row_format in (RowFormat.INT4, RowFormat.INT8, RowFormat.FP16, RowFormat.FP32)),
    )
    how = (
        DTYPE_CODES[output],
        torch.empty(0, 0, dtype=torch.uint8, device=device),  # lxu_cache_weights
        torch.empty(0, dtype=torch.int32, device=device),  # lxu_cache_locations
        row_alignment_bytes,
    )
    pooling_code = POOLING_CODES[pooling]

    def lookup(indices: Tensor, offsets: Tensor, sample_weights: Tensor | None = None) -> Tensor:
        found: Tensor = op(*where, indices, offsets, pooling_code, sample_weights, *how)
        return found

    return lookup

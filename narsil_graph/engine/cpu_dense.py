"""Candidates for a chain of dense layers on a CPU: MKL, oneDNN over prepacked weights, OpenBLAS in small blocks."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from narsil_graph.engine.forward import Layers
from narsil_graph.engine.pick import Call, Candidate, in_turn
from narsil_graph.engine.scratch import Scratch

# OpenBLAS takes its small-matrix kernels (no packing: about 100 GF/s a core from 4 rows up, where its packing path
# gives 45) up to this many multiplications. Found by stepping M, N and K on Zen 4 with the OpenBLAS of numpy 2.4.
BLAS_SMALL_MULTIPLIES = 1_000_000
BLAS_BLOCK_WIDTHS = (512, 256, 128, 64, 48, 32)
Step = Callable[[Tensor], Tensor]
Floats = NDArray[np.float32]


class DenseChain:
    """Layers with ReLU between them (and after the last when ``relu_last``), in float32 or bfloat16 arithmetic.

    ``candidates`` binds them to a static ``source`` [rows, in] and ``target`` [rows, out] of the chain's dtype, whose
    rows may be strided. A last layer of width 1 is always computed in float32 into a float32 ``target``: bfloat16
    would round the logit to 8 bits and gain nothing.
    """

    def __init__(self, layers: Layers, scratch: Scratch, *, relu_last: bool, dtype: torch.dtype) -> None:
        self._scratch = scratch
        self._dtype = dtype
        self._relu = [True] * (len(layers) - 1) + [relu_last]
        self._head = layers[-1] if len(layers[-1][0]) == 1 else None
        body = layers if self._head is None else layers[:-1]
        self._weights = [weight.to(dtype) for weight, _ in body]
        self._biases = [bias.to(dtype) for _, bias in body]
        self._packed: list[Tensor] = []
        self._transposed = [weight.t().contiguous() for weight, _ in layers] if dtype is torch.float32 else []
        self._all_biases = [bias for _, bias in layers]
        self._carried_biases = self._carry_biases() if self._transposed else []

    def candidates(self, source: Tensor, target: Tensor) -> list[Candidate]:
        found: list[Candidate] = []
        if self._dtype is torch.float32:
            hidden = enumerate(self._transposed[:-1])
            inner = [self._scratch.take(f"hidden {n}", len(source), weight.shape[1]) for n, weight in hidden]
            buffers = [source, *inner, target]
            found.append(Candidate("mkl", self._mkl(buffers)))
            blocked = self._blocked(buffers)
            if blocked is not None:
                found.append(Candidate("openblas", blocked))
                if torch.get_num_threads() == 1:
                    # On one thread the blocks beat oneDNN wherever they fit (1.1x to 2x, Zen 4), and oneDNN's
                    # generated code would cost 3 MB a bucket.
                    return found
        else:
            found.append(Candidate("torch", self._chain(source, target, self._plain_steps())))
        fused = self._fused_steps(source)
        if fused is not None:
            found.append(Candidate("onednn", self._chain(source, target, fused)))
        return found

    def last_resort(self, source: Tensor, target: Tensor) -> Candidate | None:
        """One call per row and layer: slow, but blind to where a row lies whatever the kernels are. float32 only."""
        if self._dtype is not torch.float32:
            return None
        inner = [self._scratch.take(f"row {n}", 1, weight.shape[1]) for n, weight in enumerate(self._transposed[:-1])]
        rows = [self._mkl([source[row : row + 1], *inner, target[row : row + 1]]) for row in range(len(source))]
        return Candidate("row by row", in_turn(rows))

    def _mkl(self, buffers: Sequence[Tensor]) -> Call:
        calls: list[Call] = []
        for (x, out), weight, bias, relu in zip(
            pairwise(buffers), self._transposed, self._all_biases, self._relu, strict=True
        ):
            if weight.shape[1] == 1:
                calls.append(partial(project, weight, bias, out, x))
            else:
                calls.append(partial(torch.addmm, bias, x, weight, out=out))
            if relu:
                calls.append(out.relu_)
        return in_turn(calls)

    def _blocked(self, buffers: Sequence[Tensor]) -> Call | None:
        """Column blocks small enough for OpenBLAS's small-matrix kernels; None where no useful block is that small.

        relu(z + b) = max(z, -b) + b: the inner layers store max(z, -b) in one pass over z, and the next layer's bias
        takes the + b in (``_carried_biases``).
        """
        calls: list[Call] = []
        last = len(self._transposed) - 1
        for number, (x, out) in enumerate(pairwise(buffers)):
            weight, bias = self._transposed[number], self._carried_biases[number]
            multiplies_per_column = len(x) * len(weight)
            width = next((w for w in BLAS_BLOCK_WIDTHS if w * multiplies_per_column <= BLAS_SMALL_MULTIPLIES), None)
            if width is None:
                return None
            out_array = out.numpy()
            calls += _column_blocks(x.numpy(), weight.numpy(), out_array, width)
            if number < last:
                calls.append(partial(np.maximum, out_array, -bias, out=out_array))
            else:
                calls.append(partial(np.add, out_array, bias, out=out_array))
                if self._relu[last]:
                    calls.append(partial(np.maximum, out_array, np.float32(0), out=out_array))
        return in_turn(calls)

    def _carry_biases(self) -> list[Floats]:
        carried: list[Floats] = []
        for weight, bias in zip(self._transposed, self._all_biases, strict=True):
            through = carried[-1].astype(np.float64) @ weight.numpy() if carried else 0.0
            carried.append((bias.numpy() + through).astype(np.float32))
        return carried

    def _plain_steps(self) -> list[Step]:
        return [
            partial(_linear, weight, bias, relu)
            for weight, bias, relu in zip(self._weights, self._biases, self._relu, strict=False)
        ]

    def _fused_steps(self, source: Tensor) -> list[Step] | None:
        """oneDNN's linear + ReLU by torch's private operators; None where this torch or this CPU lacks them."""
        try:
            if not self._packed:
                reorder = torch.ops.mkldnn._reorder_linear_weight.default
                self._packed = [reorder(weight, len(source)) for weight in self._weights]
            linear = torch.ops.mkldnn._linear_pointwise.default
            steps: list[Step] = [
                partial(_fused_linear, linear, weight, bias, "relu" if relu else "none")
                for weight, bias, relu in zip(self._packed, self._biases, self._relu, strict=False)
            ]
            if steps:
                steps[0](source)
        except (AttributeError, RuntimeError):
            return None
        return steps

    def _chain(self, source: Tensor, target: Tensor, steps: Sequence[Step]) -> Call:
        if self._head is None:
            return partial(run_into, steps, source, target)
        weight, bias = self._head
        return partial(run_and_project, steps, source, target, weight.t().contiguous(), bias)


def _column_blocks(x: Floats, weight: Floats, out: Floats, width: int) -> list[Call]:
    """x @ ``weight`` into ``out``, ``width`` columns a call; a single column as in ``project``."""
    columns = weight.shape[1]
    if columns == 1:
        return [partial(np.vecdot, x, weight[:, 0], out=out[:, 0])]
    blocks = [slice(begin, begin + width) for begin in range(0, columns, width)]
    return [partial(np.matmul, x, weight[:, block], out=out[:, block]) for block in blocks]


def _linear(weight: Tensor, bias: Tensor, relu: bool, x: Tensor) -> Tensor:
    out = F.linear(x, weight, bias)
    return out.relu_() if relu else out


def _fused_linear(linear: Callable[..., Tensor], weight: Tensor, bias: Tensor, activation: str, x: Tensor) -> Tensor:
    return linear(x, weight, bias, activation, [], "")


def run_into(steps: Sequence[Step], source: Tensor, target: Tensor) -> None:
    """Run ``steps`` on ``source`` and copy the result into ``target``."""
    x = source
    for step in steps:
        x = step(x)
    target.copy_(x)


def run_and_project(steps: Sequence[Step], source: Tensor, target: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Run ``steps`` on ``source`` and ``project`` the result into ``target`` [rows, 1]."""
    x = source
    for step in steps:
        x = step(x)
    project(weight, bias, target, x.float())


def project(weight: Tensor, bias: Tensor, out: Tensor, x: Tensor) -> None:
    """x @ ``weight`` [in, 1] + ``bias`` [1] into ``out`` [rows, 1], in float32.

    A dot product per row: BLAS's matrix-vector products treat the rows left over from blocks of four in another
    order of sums, so that a row's bits would depend on its place.
    """
    column = out.numpy()[:, 0]
    np.vecdot(x.numpy(), weight.numpy()[:, 0], out=column)
    np.add(column, bias.numpy(), out=column)

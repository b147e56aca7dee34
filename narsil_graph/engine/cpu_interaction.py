"""Candidates for the pairwise dots on a CPU, and where each dot lies in the matrix that they make."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narsil_graph.engine.pick import Candidate


class Band:
    """All dots x_i . x_j, i < j, as one strided window of the flattened F x F matrix of products.

    Row i of the window holds the elements i*F+i+1 .. i*F+i+w with w = ceil(F/2): the differences 1..w of row i and,
    where the window runs over the end of row i, the differences F+1-w..F-1 of row i+1. Together they hold every pair,
    so a strided copy replaces a gather of single elements; pairs held twice get zero weight the second time.
    """

    def __init__(self, vectors: int) -> None:
        self.vectors = vectors
        self.rows = vectors - 1
        self.row_width = (vectors + 1) // 2
        self.width = self.rows * self.row_width

    def window(self, products: Tensor) -> Tensor:
        """The view [n, rows, row_width] of contiguous ``products`` [n, F, F]."""
        stride = self.vectors * self.vectors
        return products.as_strided((len(products), self.rows, self.row_width), (stride, self.vectors + 1, 1), 1)

    def destination(self, dots: Tensor) -> Tensor:
        """The view [n, rows, row_width] of ``dots`` [n, width], whose rows may be strided."""
        shape = (len(dots), self.rows, self.row_width)
        return dots.as_strided(shape, (dots.stride(0), self.row_width, 1), dots.storage_offset())

    def relay(self, weight: Tensor, dim: int) -> Tensor:
        """Over-arch weights [out, dim + pairs], their columns moved from pair order to band order [dim + width]."""
        pairs = torch.triu_indices(self.vectors, self.vectors, offset=1)
        column_of = {(int(i), int(j)): dim + k for k, (i, j) in enumerate(pairs.t().tolist())}
        relaid = torch.zeros(len(weight), dim + self.width)
        relaid[:, :dim] = weight[:, :dim]
        for k in range(self.width):
            position = (k // self.row_width) * (self.vectors + 1) + k % self.row_width + 1
            pair = tuple(sorted(divmod(position, self.vectors)))
            column = column_of.pop((pair[0], pair[1]), None)
            if column is not None:
                relaid[:, dim + k] = weight[:, column]
        assert not column_of, "the band holds every pair"
        return relaid


def product_candidates(products: Tensor) -> list[tuple[str, Callable[[Tensor], object]]]:
    """Ways to write vectors [n, F, dim] times their transpose into ``products`` [n, F, F]; called with the vectors."""
    found: list[tuple[str, Callable[[Tensor], object]]] = [("mkl", partial(_bmm, products))]
    if products.dtype is torch.float32:
        found.append(("onednn", partial(_onednn_bmm, products)))
        found.append(("openblas", partial(_openblas, products.numpy())))
    return found


def bound(candidates: list[tuple[str, Callable[[Tensor], object]]], vectors: Tensor) -> list[Candidate]:
    """The candidates on one sample of ``vectors``, for timing."""
    return [Candidate(name, partial(run, vectors)) for name, run in candidates]


def _bmm(products: Tensor, vectors: Tensor) -> None:
    torch.bmm(vectors, vectors.transpose(1, 2), out=products)


def _onednn_bmm(products: Tensor, vectors: Tensor) -> None:
    # The only public way to oneDNN's float32 bmm. Where the CPU has AMX it would really use bfloat16; the agreement
    # check of engine/pick.py then rejects this candidate.
    with _matmul_precision("medium"):
        torch.bmm(vectors, vectors.transpose(1, 2), out=products)


@contextmanager
def _matmul_precision(precision: str) -> Generator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _openblas(products: NDArray[np.float32], vectors: Tensor) -> None:
    # numpy gives A @ A.T to BLAS's syrk, which takes twice as long as gemm on matrices this small. One column fewer
    # and it is a gemm; that column is the last row, mirrored.
    array = vectors.numpy()
    np.matmul(array, array[:, :-1].transpose(0, 2, 1), out=products[:, :, :-1])
    np.copyto(products[:, :-1, -1], products[:, -1, :-1])

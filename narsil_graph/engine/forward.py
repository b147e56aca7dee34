"""The DLRM forward on tensors of one device: what runs eagerly, and what a CUDA graph records."""

from collections.abc import Callable
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from narsil_graph.engine.fbgemm import Lookup, LookupTable, bind_lookup
from narsil_graph.engine.launcher import Precision
from narsil_graph.model.spec import ModelSpec, Pooling
from narsil_graph.model.weights import Model

Layers = tuple[tuple[Tensor, Tensor], ...]

DTYPES = {
    Precision.F32: torch.float32,
    Precision.TF32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
}


class Forward:
    """The weights of ``model``, placed by ``place`` (a copy to a device, or the identity) in ``dtype``.

    Embedding rows keep their stored format, each padded to ``row_alignment_bytes`` (FBGEMM's CUDA kernels want 16).
    """

    def __init__(
        self,
        model: Model,
        *,
        place: Callable[[Tensor], Tensor],
        dtype: torch.dtype = torch.float32,
        row_alignment_bytes: int = 1,
    ) -> None:
        self.spec = model.spec
        self.dtype = dtype
        self.dense_layers = _placed(layer_tensors(model, "dense"), place, dtype)
        self.over_layers = _placed(layer_tensors(model, "over"), place, dtype)
        rows, self.begins = flat_rows(model, row_alignment_bytes)
        self.rows = place(rows)
        self._lookup = table_batched_lookup(model.spec, self.rows, self.begins, dtype, row_alignment_bytes)
        left, right = torch.triu_indices(model.spec.vectors, model.spec.vectors, offset=1)
        self._pairs = place(left * model.spec.vectors + right)

    def __call__(self, dense: Tensor, indices: Tensor, offsets: Tensor, sample_weights: Tensor | None) -> Tensor:
        """Scores f32 [n] of dense f32 [n, D] and key-major indices int32 [nnz], offsets int32 [T*n+1].

        ``sample_weights`` f32 [nnz] turns sums into means where a model mixes poolings (``uniform_pooling``).
        """
        bottom = self.bottom(dense)
        return self.top(self.interact(bottom, self._lookup(indices, offsets, sample_weights)))

    def bottom(self, dense: Tensor) -> Tensor:
        """The dense arch: [n, dim] of f32 [n, D]."""
        activations = dense.to(self.dtype)
        for weight, bias in self.dense_layers:
            activations = linear(activations, weight, bias).relu_()
        return activations

    def interact(self, bottom: Tensor, pooled: Tensor) -> Tensor:
        """The over arch's input: ``bottom`` [n, dim], then the dots of every two of it and ``pooled`` [n, T*dim]."""
        vectors = torch.cat([bottom, pooled], dim=1).view(len(bottom), self.spec.vectors, self.spec.dim)
        products = torch.bmm(vectors, vectors.transpose(1, 2)).view(len(bottom), -1)
        return torch.cat([bottom, products.index_select(1, self._pairs)], dim=1)

    def top(self, activations: Tensor) -> Tensor:
        """The over arch and the sigmoid, the latter in float32: scores f32 [n]."""
        for weight, bias in self.over_layers[:-1]:
            activations = linear(activations, weight, bias).relu_()
        weight, bias = self.over_layers[-1]
        return linear(activations, weight, bias).float().sigmoid_().view(-1)

    def weights(self) -> tuple[Tensor, ...]:
        """Every tensor of weights. A captured graph reads them where they lie now."""
        return (self.rows, *(tensor for layer in (*self.dense_layers, *self.over_layers) for tensor in layer))


def linear(activations: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[n, out] of [n, in], weight [out, in], bias [out].

    Where a side of the weight is 1, torch's CUDA path first copies the bias into the result; for one row that is a copy
    node in a graph that has to have two.
    """
    return F.linear(activations, weight) + bias if 1 in weight.shape else F.linear(activations, weight, bias)


def layer_tensors(model: Model, arch: str) -> Layers:
    """(weight f32 [out, in], bias f32 [out]) of the ``dense`` or ``over`` arch."""
    layers = model.dense_layers if arch == "dense" else model.over_layers
    return tuple((torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)) for layer in layers)


def _placed(layers: Layers, place: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Layers:
    return tuple((place(weight.to(dtype)), place(bias.to(dtype))) for weight, bias in layers)


def flat_rows(model: Model, row_alignment_bytes: int) -> tuple[Tensor, dict[str, int]]:
    """All rows as one flat uint8 tensor, and the byte at which each table begins.

    A copy only for mixed formats, or where rows have to be padded.
    """
    rows = [_padded(torch.from_numpy(stored), row_alignment_bytes) for stored in model.rows.values()]
    format_begins = dict(zip(model.rows, accumulate((part.numel() for part in rows), initial=0), strict=False))
    row_bytes = dict(zip(model.rows, (part.shape[1] for part in rows), strict=True))
    begins: dict[str, int] = {}
    for table in model.spec.tables:
        begins[table.name] = format_begins[table.format]
        format_begins[table.format] += table.rows * row_bytes[table.format]
    flat = [part.view(-1) for part in rows]
    return (flat[0] if len(flat) == 1 else torch.cat(flat)), begins


def _padded(rows: Tensor, alignment_bytes: int) -> Tensor:
    return F.pad(rows, (0, -rows.shape[1] % alignment_bytes)) if rows.shape[1] % alignment_bytes else rows


def table_batched_lookup(
    spec: ModelSpec, rows: Tensor, begins: dict[str, int], output: torch.dtype, row_alignment_bytes: int
) -> Lookup:
    """One logical table per sparse feature, key-major."""
    tables = [LookupTable(begins[table.name], table.rows, table.format) for table in spec.feature_tables]
    return bind_lookup(
        weights=rows,
        tables=tables,
        dim=spec.dim,
        pooling=uniform_pooling(spec),
        output=output,
        row_alignment_bytes=row_alignment_bytes,
    )


def uniform_pooling(spec: ModelSpec) -> Pooling:
    """The pooling of one lookup over all tables: a mixture is summed, with sample weights making the means."""
    poolings = {table.pooling for table in spec.feature_tables}
    return poolings.pop() if len(poolings) == 1 else Pooling.SUM


def means_among_sums(spec: ModelSpec) -> Tensor | None:
    """Which features pool by the mean, bool [T], where a model mixes poolings; else None."""
    means = [table.pooling is Pooling.MEAN for table in spec.feature_tables]
    return torch.tensor(means) if any(means) and not all(means) else None

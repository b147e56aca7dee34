"""The DLRM forward in plain PyTorch with FBGEMM: the reference of the doctor and the baseline of every comparison."""

from functools import partial
from itertools import accumulate

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from narsil_graph.engine.arena import Arena
from narsil_graph.engine.fbgemm import Lookup, LookupTable, host_lookup
from narsil_graph.engine.launcher import Launcher, Slot
from narsil_graph.model.spec import ModelSpec, Pooling
from narsil_graph.model.weights import Model
from narsil_transport.buckets import Bucket

Layers = tuple[tuple[Tensor, Tensor], ...]


class EagerForward(Launcher):
    """Launches run the forward operator by operator on the rows that are there; nothing is padded or prepared."""

    def __init__(self, model: Model) -> None:
        self._spec = model.spec
        self._dense_layers = layer_tensors(model, "dense")
        self._over_layers = layer_tensors(model, "over")
        self._lookup = table_batched_lookup(model)
        self._sample_weights = SampleWeights(model.spec)
        pairs = torch.triu_indices(model.spec.vectors, model.spec.vectors, offset=1)
        self._left, self._right = pairs[0], pairs[1]

    def capture(self, bucket: Bucket) -> Slot:
        arena = Arena(
            bucket,
            dense_width=len(self._spec.dense_features),
            id_bases=np.zeros(len(self._spec.sparse_features), np.int32),
            lead=0,
        )
        scores = np.zeros(bucket.rows, np.float32)
        return Slot(arena=arena, program=partial(self._score, arena, scores), scores=scores, kernels="eager")

    def _score(self, arena: Arena, scores: NDArray[np.float32]) -> None:
        dense = torch.from_numpy(arena.dense[: arena.rows])
        indices, offsets = key_major(arena, len(self._spec.sparse_features))
        scores[: arena.rows] = self.forward(dense, indices, offsets).numpy()

    def forward(self, dense: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
        """Scores f32 [n] of dense f32 [n, D] and key-major indices int32 [nnz], offsets int32 [T*n+1]."""
        bottom = dense
        for weight, bias in self._dense_layers:
            bottom = torch.relu(F.linear(bottom, weight, bias))
        pooled = self._lookup(indices, offsets, self._sample_weights(offsets))
        vectors = torch.cat([bottom, pooled], dim=1).view(len(dense), self._spec.vectors, self._spec.dim)
        dots = torch.bmm(vectors, vectors.transpose(1, 2))[:, self._left, self._right]
        top = torch.cat([bottom, dots], dim=1)
        for weight, bias in self._over_layers[:-1]:
            top = torch.relu(F.linear(top, weight, bias))
        weight, bias = self._over_layers[-1]
        return torch.sigmoid(F.linear(top, weight, bias)).view(-1)


def layer_tensors(model: Model, arch: str) -> Layers:
    """(weight f32 [out, in], bias f32 [out]) of the ``dense`` or ``over`` arch."""
    layers = model.dense_layers if arch == "dense" else model.over_layers
    return tuple((torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)) for layer in layers)


def flat_rows(model: Model) -> tuple[Tensor, dict[str, int]]:
    """All rows as one flat uint8 tensor, and the byte at which each table begins. A copy only for mixed formats."""
    rows = [torch.from_numpy(stored).view(-1) for stored in model.rows.values()]
    format_begins = dict(zip(model.rows, accumulate((len(part) for part in rows), initial=0), strict=False))
    begins: dict[str, int] = {}
    for table in model.spec.tables:
        begins[table.name] = format_begins[table.format]
        format_begins[table.format] += table.rows * table.row_bytes
    return (rows[0] if len(rows) == 1 else torch.cat(rows)), begins


def table_batched_lookup(model: Model, output: torch.dtype = torch.float32) -> Lookup:
    """One logical table per sparse feature, key-major."""
    weights, begins = flat_rows(model)
    tables = [LookupTable(begins[table.name], table.rows, table.format) for table in model.spec.feature_tables]
    return host_lookup(
        weights=weights, tables=tables, dim=model.spec.dim, pooling=uniform_pooling(model.spec), output=output
    )


def uniform_pooling(spec: ModelSpec) -> Pooling:
    """The pooling of one lookup over all tables: a mixture is summed, with SampleWeights making the means."""
    poolings = {table.pooling for table in spec.feature_tables}
    return poolings.pop() if len(poolings) == 1 else Pooling.SUM


class SampleWeights:
    """Per-id weights that turn sums into means for the MEAN tables of a model that mixes poolings, else None."""

    def __init__(self, spec: ModelSpec) -> None:
        means = [table.pooling is Pooling.MEAN for table in spec.feature_tables]
        self._means = torch.tensor(means) if any(means) and not all(means) else None

    def __call__(self, offsets: Tensor) -> Tensor | None:
        """f32 [nnz] for key-major ``offsets`` int32 [T*n+1]."""
        if self._means is None:
            return None
        lengths = offsets.diff().view(len(self._means), -1)
        weights = torch.where(self._means[:, None], 1.0 / lengths.clamp(min=1), torch.ones(()))
        return weights.reshape(-1).repeat_interleave(lengths.reshape(-1))


def key_major(arena: Arena, features: int) -> tuple[Tensor, Tensor]:
    """The arena's rows as FBGEMM's key-major (indices int32 [nnz], offsets int32 [T*n+1]). The arena has no lead."""
    values = torch.from_numpy(arena.values[: arena.ids])
    if arena.one_hot:
        return values.view(-1, features).t().reshape(-1), torch.arange(arena.ids + 1, dtype=torch.int32)
    starts = torch.from_numpy(arena.offsets[: arena.rows * features + 1])
    lengths = starts.diff().view(-1, features)
    offsets = torch.zeros(arena.rows * features + 1, dtype=torch.int32)
    torch.cumsum(lengths.t().reshape(-1), 0, dtype=torch.int32, out=offsets[1:])
    by_bag = torch.arange(arena.rows * features).view(-1, features).t().reshape(-1)
    bag_of_id = torch.repeat_interleave(lengths.t().reshape(-1))
    within = torch.arange(arena.ids) - offsets[:-1].long()[bag_of_id]
    return values[starts[:-1].long()[by_bag[bag_of_id]] + within], offsets

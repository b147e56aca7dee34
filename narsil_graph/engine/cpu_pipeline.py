"""The whole forward on a CPU in one arithmetic: lookup, dense arch, dots, over arch, sigmoid, over static buffers."""

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narsil_graph.engine.arena import Arena
from narsil_graph.engine.cpu_dense import DenseChain
from narsil_graph.engine.cpu_int8 import Int8Chain
from narsil_graph.engine.cpu_interaction import Band, bound, product_candidates
from narsil_graph.engine.eager import SampleWeights, key_major
from narsil_graph.engine.fbgemm import LookupTable, bind_lookup
from narsil_graph.engine.forward import Layers, flat_rows, layer_tensors, means_among_sums, table_batched_lookup
from narsil_graph.engine.launcher import Precision
from narsil_graph.engine.pick import Candidate, agreeing, fastest
from narsil_graph.engine.scratch import Scratch
from narsil_graph.errors import Failure
from narsil_graph.model.spec import ModelSpec
from narsil_graph.model.weights import Model

# torch's loops take two vectors (of at most 16 floats) at a time and compute what is left over by scalar code, whose
# exp differs in the last bit: a row's score would depend on its place. Whole strides leave nothing over.
SIGMOID_STRIDE = 64
# How far a kernel may be from the first of its stage, relative to the largest value: float32 kernels differ by the
# order of their sums; bfloat16 ones also by where they round.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


class PositionDependent(Failure):
    """No kernel of a stage gives a row the same bits wherever it lies."""


class Chain(Protocol):
    def candidates(self, source: Tensor, target: Tensor) -> list[Candidate]: ...
    def last_resort(self, source: Tensor, target: Tensor) -> Candidate | None: ...


class Pipeline:
    """Weights prepared once for one precision; ``bind`` makes a program for one arena."""

    def __init__(self, model: Model, precision: Precision, scratch: Scratch) -> None:
        spec = model.spec
        self._spec = spec
        self._scratch = scratch
        self.precision = precision
        self.dtype = torch.float32 if precision is Precision.F32 else torch.bfloat16
        self._band = Band(spec.vectors)
        (first_weight, first_bias), *rest = layer_tensors(model, "over")
        over_layers = ((self._band.relay(first_weight, spec.dim), first_bias), *rest)
        self._dense_arch, self._over_arch = self._chains(spec, layer_tensors(model, "dense"), over_layers)
        self._lookup = _concatenated_lookup(model, self.dtype) or _mixed_lookup(model, self.dtype)

    def _chains(self, spec: ModelSpec, dense_layers: Layers, over_layers: Layers) -> tuple[Chain, Chain]:
        if self.precision is Precision.INT8:
            ranges = spec.activation_ranges
            dense_ranges, over_ranges = ranges[: len(dense_layers)], ranges[len(dense_layers) :]
            return (
                Int8Chain(dense_layers, dense_ranges, self._scratch, relu_last=True, float_first=True),
                Int8Chain(over_layers, over_ranges, self._scratch, relu_last=False, float_first=False),
            )
        return (
            DenseChain(dense_layers, self._scratch, relu_last=True, dtype=self.dtype),
            DenseChain(over_layers, self._scratch, relu_last=False, dtype=self.dtype),
        )

    def bind(self, arena: Arena, scores: Tensor) -> Candidate:
        """A program that scores ``arena`` into ``scores`` f32 [rows], each stage's kernel picked by timing."""
        spec, band, rows = self._spec, self._band, arena.bucket.rows
        take = partial(self._scratch.take, dtype=self.dtype)
        dense = torch.from_numpy(arena.dense)
        # 8-bit chains quantise float32 features themselves.
        source = take("dense", rows, dense.shape[1]) if self.precision is Precision.BF16 else dense
        over_in = take("over in", rows, spec.dim + band.width)
        bottom, dots = over_in[:, : spec.dim], over_in[:, spec.dim :]
        vectors = take("vectors", rows, spec.vectors, spec.dim)
        products = take("products", rows, spec.vectors, spec.vectors)
        padded_logits = self._scratch.take("logits", -(-rows // SIGMOID_STRIDE) * SIGMOID_STRIDE, 1)
        logits = padded_logits[:rows]
        dense_arch = self._pick(self._dense_arch, source, bottom)
        multiply = product_candidates(products)
        kept = self._agreeing(bound(multiply, vectors), vectors, band.window(products))
        if not kept:
            raise self._position_dependent(rows)
        product = fastest(kept)
        over_arch = self._pick(self._over_arch, over_in, logits)
        window, place = bits(band.window(products)), bits(band.destination(dots))
        run = partial(
            _forward,
            partial(self._lookup, arena),
            None if source is dense else partial(source.copy_, dense),
            dense_arch.run,
            bits(bottom),
            dict(multiply)[product.name],
            partial(np.copyto, place, window),
            over_arch.run,
            padded_logits.sigmoid_,
            partial(np.copyto, scores.numpy(), logits.numpy()[:, 0]),
        )
        return Candidate(f"{self.precision.value} {dense_arch.name}/{product.name}/{over_arch.name}", run)

    def _pick(self, chain: Chain, source: Tensor, target: Tensor) -> Candidate:
        """The fastest kernel that may serve; the chain's last resort where all depend on a row's place."""
        kept = self._agreeing(chain.candidates(source, target), source, target)
        if kept:
            return fastest(kept)
        resort = chain.last_resort(source, target)
        if resort is None:
            raise self._position_dependent(len(source))
        return resort

    def _agreeing(self, candidates: list[Candidate], source: Tensor, target: Tensor) -> list[Candidate]:
        return agreeing(candidates, source=source, target=target, tolerance=TOLERANCES[self.dtype])

    def _position_dependent(self, rows: int) -> PositionDependent:
        return PositionDependent(f"every {self.precision.value} kernel for {rows} rows depends on where a row lies")


def _forward(
    lookup: Callable[[], Tensor],
    cast: Callable[[], object] | None,
    dense_arch: Callable[[], object],
    bottom: NDArray[np.generic],
    multiply: Callable[[Tensor], object],
    gather: Callable[[], object],
    over_arch: Callable[[], object],
    sigmoid: Callable[[], object],
    deliver: Callable[[], object],
) -> None:
    vectors = lookup()
    if cast is not None:
        cast()
    dense_arch()
    np.copyto(bits(vectors)[:, 0], bottom)
    multiply(vectors)
    gather()
    over_arch()
    sigmoid()
    deliver()


def bits(tensor: Tensor) -> NDArray[np.generic]:
    """A numpy view of ``tensor``; bfloat16, which numpy lacks, as int16. numpy's strided copies cost 1 us less."""
    array: NDArray[np.generic] = (tensor if tensor.dtype is torch.float32 else tensor.view(torch.int16)).numpy()
    return array


def table_bases(spec: ModelSpec) -> NDArray[np.int32]:
    """i4 [T]: where each sparse feature's table begins when all tables lie one after another, in rows."""
    begins = dict(
        zip(
            (table.name for table in spec.tables),
            accumulate((table.rows for table in spec.tables), initial=0),
            strict=False,
        )
    )
    return np.array([begins[feature.table] for feature in spec.sparse_features], np.int32)


def is_uniform(spec: ModelSpec) -> bool:
    """Whether all tables can be looked up as one: one row format, one pooling."""
    return len({(table.format, table.pooling) for table in spec.tables}) == 1


def _concatenated_lookup(model: Model, dtype: torch.dtype) -> Callable[[Arena], Tensor] | None:
    """All tables as one: no transposition, and an empty bag before each row leaves room for the dense vector."""
    spec = model.spec
    if not is_uniform(spec):
        return None
    table = spec.tables[0]
    lookup = bind_lookup(
        weights=torch.from_numpy(model.rows[table.format]).view(-1),
        tables=[LookupTable(0, sum(entry.rows for entry in spec.tables), table.format)],
        dim=spec.dim,
        pooling=table.pooling,
        output=dtype,
    )

    def vectors(arena: Arena) -> Tensor:
        found = lookup(torch.from_numpy(arena.values), torch.from_numpy(arena.offsets))
        return found.view(arena.bucket.rows, spec.vectors, spec.dim)

    return vectors


def _mixed_lookup(model: Model, dtype: torch.dtype) -> Callable[[Arena], Tensor]:
    """Tables of several formats or poolings, key-major like the eager forward; slower by the reorder."""
    spec = model.spec
    rows, begins = flat_rows(model, 1)
    lookup = table_batched_lookup(spec, rows, begins, dtype, 1)
    sample_weights = SampleWeights(means_among_sums(spec))

    def vectors(arena: Arena) -> Tensor:
        indices, offsets = key_major(arena, len(spec.sparse_features))
        pooled = lookup(indices, offsets, sample_weights(offsets))
        found = torch.zeros(arena.bucket.rows, spec.vectors, spec.dim, dtype=dtype)
        found[: arena.rows, 1:] = pooled.view(arena.rows, -1, spec.dim)
        return found

    return vectors

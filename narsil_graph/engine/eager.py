"""The forward operator by operator: the reference of the doctor and the baseline of every comparison."""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narsil_graph.engine.arena import Arena
from narsil_graph.engine.forward import DTYPES, Forward, means_among_sums
from narsil_graph.engine.launcher import Launcher, Precision, Slot
from narsil_graph.model.weights import Model
from narsil_transport.buckets import Bucket

HOST = torch.device("cpu")
# What FBGEMM's lookup on each kind of device reads rows by.
ROW_ALIGNMENT_BYTES = {"cpu": 1, "cuda": 16}


class EagerForward(Launcher):
    """Launches run the forward on the rows that are there, copied to ``device``; nothing is padded or prepared."""

    eager = True

    def __init__(self, model: Model, device: torch.device = HOST, precision: Precision = Precision.F32) -> None:
        self._features = len(model.spec.sparse_features)
        self._dense_width = len(model.spec.dense_features)
        self._device = device
        self._sample_weights = SampleWeights(means_among_sums(model.spec))
        self.forward = Forward(
            model,
            place=partial(Tensor.to, device=device),
            dtype=DTYPES[precision],
            row_alignment_bytes=ROW_ALIGNMENT_BYTES[device.type],
        )

    def capture(self, bucket: Bucket) -> tuple[Slot, ...]:
        bases = np.zeros(self._features, np.int32)
        arena = Arena(bucket, dense_width=self._dense_width, id_bases=bases, lead=0)
        scores = np.zeros(bucket.rows, np.float32)
        return (Slot(arena=arena, program=partial(self._score, arena, scores), scores=scores, kernels="eager"),)

    def _score(self, arena: Arena, scores: NDArray[np.float32]) -> None:
        dense = torch.from_numpy(arena.dense[: arena.rows])
        indices, offsets = key_major(arena, self._features)
        weights = self._sample_weights(offsets)
        found = self.forward(
            dense.to(self._device),
            indices.to(self._device),
            offsets.to(self._device),
            None if weights is None else weights.to(self._device),
        )
        scores[: arena.rows] = found.cpu().numpy()


class SampleWeights:
    """Per-id weights that turn sums into means for the features marked in ``means`` bool [T], else None."""

    def __init__(self, means: Tensor | None) -> None:
        self._means = means

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

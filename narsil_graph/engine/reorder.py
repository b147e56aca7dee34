"""From an arena's sample-major ids to FBGEMM's key-major indices and offsets, on the device, in static shapes.

Indices are clamped to their tables on the way. The door refuses ids out of range and the arena zeroes what lies behind
the last row, so that this changes nothing; it keeps a lookup inside its table whatever the memory holds.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from narsil_graph.engine.forward import means_among_sums
from narsil_graph.model.spec import ModelSpec
from narsil_transport.buckets import Bucket


class Reorder:
    """The constants of one bucket. Bag (row r, feature t) is number r*T+t in the arena and t*rows+r for FBGEMM."""

    def __init__(self, spec: ModelSpec, bucket: Bucket, place: Callable[[Tensor], Tensor]) -> None:
        features, rows = len(spec.sparse_features), bucket.rows
        last_rows = torch.tensor([table.rows - 1 for table in spec.feature_tables], dtype=torch.int32)
        arena_bags = torch.arange(rows * features, dtype=torch.int32).view(rows, features).t().reshape(-1)
        zero = torch.zeros(1, dtype=torch.int32)
        self._features = features
        self._rows = rows
        self.last_rows = place(last_rows)
        self._last_row_by_bag = place(last_rows.repeat_interleave(rows))
        self._one_id_offsets = place(torch.arange(rows * features + 1, dtype=torch.int32))
        # The first entry of both makes a length of 0, so that the running sum of the lengths begins with it.
        self._begins = place(torch.cat([zero, arena_bags]))
        self._ends = place(torch.cat([zero, arena_bags + 1]))
        self._places = place(torch.arange(bucket.ids, dtype=torch.int32))
        means = means_among_sums(spec)
        self._means_by_bag = None if means is None else place(means.repeat_interleave(rows))
        self._one = place(torch.ones(()))

    def one_id(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(indices int32 [T*rows], constant offsets int32 [T*rows+1]) of values int32 [>= rows*T], one per bag."""
        bags = values[: self._rows * self._features].view(self._rows, self._features)
        indices = torch.empty_like(self._last_row_by_bag)
        # One kernel clamps and transposes: only with a given output does an elementwise operator change its layout.
        torch.minimum(bags.t(), self.last_rows[:, None], out=indices.view(self._features, self._rows))
        return indices, self._one_id_offsets

    def bags(self, values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(indices int32 [ids], offsets int32 [T*rows+1], weights f32 [ids] or None) of the arena's values and offsets.

        Indices behind the last offset are copies of others, and no bag holds them.
        """
        begins = offsets.index_select(0, self._begins)
        lengths = offsets.index_select(0, self._ends) - begins
        key_offsets = torch.cumsum(lengths, 0, dtype=torch.int32)
        bag_of_place = torch.searchsorted(key_offsets[1:], self._places, right=True, out_int32=True)
        bag_of_place = bag_of_place.clamp_(max=self._features * self._rows - 1)
        shifts = begins[1:] - key_offsets[:-1]
        places = (self._places + shifts.index_select(0, bag_of_place)).clamp_(max=len(self._places) - 1)
        last_rows = self._last_row_by_bag.index_select(0, bag_of_place)
        indices = torch.minimum(values.index_select(0, places), last_rows)
        return indices, key_offsets, self._sample_weights(lengths[1:], bag_of_place)

    def _sample_weights(self, lengths: Tensor, bag_of_place: Tensor) -> Tensor | None:
        if self._means_by_bag is None:
            return None
        by_bag = torch.where(self._means_by_bag, 1.0 / lengths.clamp(min=1), self._one)
        return by_bag.index_select(0, bag_of_place)

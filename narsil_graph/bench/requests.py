"""What is asked: the same seeded requests of every server."""

from typing import Self

import numpy as np

from narsil_graph.bench.subject import Floats, Int32s, Rows
from narsil_graph.model.spec import ModelSpec
from narsil_graph.simulation.arrivals import Arrivals, Int64s, Sizes
from narsil_graph.simulation.arrivals import constant as constant_sizes

# Of the longest trace. At 156 bytes a row, as the reference model has, that is 40 MiB: beyond any cache.
ROWS_HELD_MAX = 1 << 18


class RequestPool:
    """Requests by number: `pool[number]` is that of `number % len(pool)`, and views what the pool holds.

    One uniform id per feature, the worst case for caches, and dense values in [0, 1).
    """

    def __init__(self, spec: ModelSpec, sizes: Sizes, seed: int, count: int = 512) -> None:
        rng = np.random.default_rng(seed)
        self._fill(spec, sizes(rng, count), rng)
        self._named: list[tuple[int | None, bool]] = [(None, False)] * len(self)

    @classmethod
    def constant(cls, spec: ModelSpec, rows: int, seed: int, count: int = 512) -> Self:
        """Requests of so many rows each."""
        return cls(spec, constant_sizes(rows), seed, count)

    @classmethod
    def recorded(cls, spec: ModelSpec, arrivals: Arrivals, seed: int) -> Self:
        """As many rows as these have, in their order, with their budgets and priorities."""
        pool = cls(spec, lambda rng, count: arrivals.rows, seed, len(arrivals))
        budgets = (deadline_us or None for deadline_us in arrivals.deadline_us.tolist())
        pool._named = list(zip(budgets, arrivals.bulk.tolist(), strict=True))
        return pool

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Rows:
        place = number % len(self._rows)
        begin = self._begins[place]
        end = begin + self._rows[place]
        deadline_us, bulk = self._named[place]
        return Rows(self._dense[begin:end], self._ids[begin:end], deadline_us, bulk)

    def _fill(self, spec: ModelSpec, rows: Int64s, rng: np.random.Generator) -> None:
        if not len(rows):
            raise ValueError("want at least one request")
        largest, whole = int(rows.max()), int(rows.sum())
        held = max(largest, min(whole, ROWS_HELD_MAX))
        self._rows: list[int] = rows.tolist()
        self._begins: list[int] = ((np.cumsum(rows) - rows) % (held - largest + 1)).tolist()
        table_rows = [table.rows for table in spec.feature_tables]
        self._dense: Floats = rng.random((held, len(spec.dense_features)), np.float32)
        self._ids: Int32s = rng.integers(0, table_rows, (held, len(table_rows)), np.int32)

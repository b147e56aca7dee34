"""The same requests for every server."""

import numpy as np
import pytest

from narsil_graph.bench.requests import ROWS_HELD_MAX, RequestPool
from narsil_graph.simulation.arrivals import Arrivals, Int64s, lognormal
from tests.engine.tiny import Shape

SPEC = Shape(table_rows=(17, 5, 9), dense_features=3).spec()


def recorded(rows: Int64s) -> Arrivals:
    return Arrivals.drawn(np.arange(len(rows)), rows, ids_per_row=3)


def test_seed_decides_every_request() -> None:
    pools = [RequestPool(SPEC, lognormal(20, 1.0), seed, 64) for seed in (1, 1, 2)]
    same, again, other = ([(rows.dense.tobytes(), rows.ids.tobytes()) for rows in map(pool.__getitem__, range(64))]
                          for pool in pools)  # fmt: skip
    assert same == again
    assert same != other


def test_rows_are_what_the_server_takes() -> None:
    pool = RequestPool(SPEC, lognormal(20, 1.0), 0, 64)
    for rows in map(pool.__getitem__, range(64)):
        assert rows.dense.dtype == np.float32 and rows.ids.dtype == np.int32
        assert rows.dense.shape == (len(rows), 3) and rows.ids.shape == (len(rows), 3)
        assert rows.dense.flags.c_contiguous and rows.ids.flags.c_contiguous
        assert (rows.ids >= 0).all() and (rows.ids < [17, 5, 9]).all()
    assert pool[0].ids.max(axis=0).tolist() != [0, 0, 0]


def test_number_counts_around_the_pool() -> None:
    pool = RequestPool.constant(SPEC, 7, seed=0, count=5)
    assert len(pool[3]) == 7
    assert np.array_equal(pool[3].ids, pool[8].ids)
    assert not np.array_equal(pool[3].ids, pool[4].ids)


def test_recorded_sizes_stay_in_their_order() -> None:
    rows = np.array([3, 1, 4, 1, 5])
    pool = RequestPool.recorded(SPEC, recorded(rows), seed=0)
    assert [len(pool[number]) for number in range(7)] == [3, 1, 4, 1, 5, 3, 1]


def test_recorded_budgets_and_priorities_come_with_their_requests() -> None:
    each = np.ones(3, np.int64)
    columns = Arrivals(each, each, each, np.array([0, 70, 9]), np.array([False, False, True]))
    pool = RequestPool.recorded(SPEC, columns, seed=0)
    assert [(pool[number].deadline_us, pool[number].bulk) for number in range(4)] == [
        (None, False),
        (70, False),
        (9, True),
        (None, False),
    ]


def test_drawn_requests_have_neither_budget_nor_priority() -> None:
    rows = RequestPool.constant(SPEC, 1, seed=0, count=1)[0]
    assert (rows.deadline_us, rows.bulk) == (None, False)


def test_long_trace_holds_no_more_rows_than_it_may() -> None:
    rows = np.full(1000, 1000)
    pool = RequestPool.recorded(SPEC, recorded(rows), seed=0)
    assert {len(pool[number]) for number in range(1000)} == {1000}
    held = pool[0].dense.base
    assert held is not None and len(held) == ROWS_HELD_MAX


def test_pool_of_no_request_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one request"):
        RequestPool.recorded(SPEC, recorded(np.empty(0, np.int64)), seed=0)

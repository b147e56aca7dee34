"""The benchmark model is what its description says, and the same for everyone who has the seed."""

import numpy as np
import pytest

from narsil_graph.engine.exact import exact_scores
from narsil_graph.engine.synthetic import one_hot_request
from narsil_graph.model.reference import reference_model
from narsil_graph.model.spec import RowFormat


def test_reference_is_the_dlrm_of_its_description() -> None:
    spec = reference_model(seed=0, rows=7).spec
    assert [(table.rows, table.dim, table.format) for table in spec.tables] == [(7, 64, RowFormat.INT8)] * 26
    assert (len(spec.dense_features), spec.dense_arch, spec.over_arch) == (13, (512, 256, 64), (512, 512, 256, 1))
    assert spec.over_width == 64 + 351


def test_one_seed_makes_one_model() -> None:
    first, same, other = (reference_model(seed=seed, rows=5).version for seed in (3, 3, 4))
    assert first == same != other


@pytest.mark.parametrize("row_format", list(RowFormat))
def test_row_format_can_be_chosen(row_format: RowFormat) -> None:
    model = reference_model(seed=0, rows=3, row_format=row_format)
    assert model.rows[row_format].shape == (26 * 3, row_format.row_bytes(64))


def test_scores_spread_over_the_middle_of_the_sigmoid() -> None:
    model = reference_model(seed=0, rows=50)
    scores = exact_scores(model, one_hot_request(model.spec, 64, np.random.default_rng(0)))
    assert np.ptp(scores) > 0.02
    assert ((scores > 0.01) & (scores < 0.99)).all()

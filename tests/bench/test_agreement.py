"""How far B's scores are from A's."""

import numpy as np
import pytest

from narsil_graph.bench.agreement import RANKED_ROWS_MAX, SCORES, agreement, scored
from narsil_graph.bench.subject import Floats
from narsil_graph.errors import Failure
from tests.bench.instant_server import InstantSubject, about
from tests.bench.virtual_server import POOL


def of(*scores: float) -> Floats:
    return np.array(scores, np.float32)


def test_equal_scores_agree_wholly() -> None:
    found = agreement({0: of(0.25, 0.5), 1: of(0.5)}, {0: of(0.25, 0.5), 1: of(0.5)})
    assert found is not None
    assert (found.requests, found.rows, found.score_max_diff, found.rank_agreement, found.top1_kept) == (2, 3, 0, 1, 1)


def test_differences_are_the_largest_and_the_mean_over_rows() -> None:
    found = agreement({0: of(0.0, 0.5), 1: of(1.0, 0.75)}, {0: of(0.25, 0.5), 1: of(0.5, 0.75)})
    assert found is not None
    assert (found.score_max_diff, found.score_mean_diff) == (0.5, 0.1875)


def test_rank_agreement_is_the_share_of_pairs_in_their_order() -> None:
    # Of (0, 1), (0, 2), (1, 2) only the last changes its order.
    found = agreement({0: of(0.1, 0.2, 0.3)}, {0: of(0.1, 0.3, 0.2)})
    assert found is not None
    assert found.rank_agreement == pytest.approx(2 / 3)


def test_pair_that_becomes_a_tie_has_lost_its_order() -> None:
    found = agreement({0: of(0.1, 0.2)}, {0: of(0.2, 0.2)})
    assert found is not None and found.rank_agreement == 0.0


def test_best_row_among_equals_is_kept_by_any_of_them() -> None:
    found = agreement({0: of(0.5, 0.5, 0.1), 1: of(0.1, 0.5)}, {0: of(0.4, 0.6, 0.1), 1: of(0.5, 0.1)})
    assert found is not None and found.top1_kept == 0.5


def test_nan_is_infinitely_far() -> None:
    found = agreement({0: of(0.5, 0.5)}, {0: of(0.5, np.nan)})
    assert found is not None and found.score_max_diff == np.inf


def test_only_what_both_answered_counts() -> None:
    found = agreement({0: of(0.5), 1: of(0.5)}, {1: of(0.5), 2: of(0.1)})
    assert found is not None and (found.requests, found.score_max_diff) == (1, 0.0)
    assert agreement({0: of(0.5)}, {1: of(0.5)}) is None


def test_another_number_of_scores_is_a_failure() -> None:
    with pytest.raises(Failure, match="2 rows with 1 scores"):
        agreement({0: of(0.5, 0.5)}, {0: of(0.5)})


def test_large_requests_are_ranked_by_some_of_their_rows() -> None:
    rising = np.arange(4 * RANKED_ROWS_MAX, dtype=np.float32)
    found = agreement({0: rising}, {0: -rising})
    assert found is not None and found.rank_agreement == 0.0


def test_dict_has_the_names_of_conditions() -> None:
    found = agreement({0: of(0.5)}, {0: of(0.5)})
    assert found is not None and set(SCORES) <= found.to_dict().keys()


def test_scored_has_every_request_that_was_answered() -> None:
    found = scored(InstantSubject(about(5.0), refused=frozenset({2})), POOL, 5, in_flight=2)
    assert sorted(found) == [0, 1, 3, 4]
    assert found[3].tolist() == POOL[3].dense[:, 0].tolist()


def test_infinite_scores_are_compared_without_a_warning() -> None:
    found = agreement({0: of(np.inf, 0.5, np.inf)}, {0: of(np.inf, 0.5, np.inf)})
    assert found is not None and found.score_max_diff == np.inf

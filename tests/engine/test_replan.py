"""A better ladder is proposed rarely, for a reason, and within bounds."""

from collections.abc import Iterable

import numpy as np
import pytest

from narsil_graph.replan import CAPTURES_AT_ONCE_MAX, REPLAN_EVERY_S, REQUESTS_MIN, Replanner
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel, LaunchCost

LATER_NS = REPLAN_EVERY_S * 1_000_000_000
POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def ladder_of(rows: Iterable[int]) -> BucketLadder:
    return BucketLadder.from_rows(rows, ids_per_row=2)


def cost_of(ladder: BucketLadder) -> CostModel:
    """130 us and 7.4 us a row, as the reference model's plan."""
    every_ns = {bucket: 130_000 + 7_400 * bucket.rows for bucket in ladder.buckets}
    return CostModel({bucket: LaunchCost(each_ns, each_ns) for bucket, each_ns in every_ns.items()})


CURRENT = ladder_of(POWERS)
COST = cost_of(CURRENT)


def fed(replanner: Replanner, rows: int, count: int = REQUESTS_MIN) -> Replanner:
    """It has begun at 0, and seen so many requests of this size."""
    assert replanner.propose(0, COST, CURRENT) is None
    for _ in range(count):
        replanner.observe(rows, 2 * rows)
    return replanner


def test_better_ladder_is_proposed_with_the_same_largest_bucket() -> None:
    made = fed(Replanner(CURRENT), 70).propose(LATER_NS, COST, CURRENT)
    assert made is not None
    assert Bucket(70, 140) in made.buckets
    assert made.buckets[-1] == CURRENT.buckets[-1]


def test_nothing_is_proposed_before_it_is_time() -> None:
    assert fed(Replanner(CURRENT), 70).propose(LATER_NS - 1, COST, CURRENT) is None


def test_nothing_is_proposed_for_few_requests_until_there_are_more() -> None:
    replanner = fed(Replanner(CURRENT), 70, REQUESTS_MIN - 1)
    assert replanner.propose(LATER_NS, COST, CURRENT) is None
    replanner.observe(70, 140)
    assert replanner.propose(LATER_NS, COST, CURRENT) is not None


def test_nothing_is_proposed_again_before_the_next_look() -> None:
    replanner = fed(Replanner(CURRENT), 70)
    assert replanner.propose(LATER_NS, COST, CURRENT) is not None
    for _ in range(REQUESTS_MIN):
        replanner.observe(70, 140)
    assert replanner.propose(2 * LATER_NS - 1, COST, CURRENT) is None
    assert replanner.propose(2 * LATER_NS, COST, CURRENT) is not None


def test_gain_of_less_than_a_twentieth_is_not_worth_a_capture() -> None:
    # 64 rows cost 604 us; for 62 it would be 589.
    assert fed(Replanner(CURRENT), 62).propose(LATER_NS, COST, CURRENT) is None


def test_few_buckets_are_captured_at_once() -> None:
    replanner, rng = fed(Replanner(CURRENT), 70, 0), np.random.default_rng(0)
    for rows in rng.integers(100, 500, 5000).tolist():
        replanner.observe(rows, 2 * rows)
    made = replanner.propose(LATER_NS, COST, CURRENT)
    assert made is not None
    assert len(set(made.buckets) - set(CURRENT.buckets)) == CAPTURES_AT_ONCE_MAX
    assert len(made.buckets) <= len(CURRENT.buckets)


def test_captures_end_though_traffic_changes_for_ever() -> None:
    current = ladder_of([4, 512])
    replanner, rng = Replanner(current), np.random.default_rng(0)
    ever, ladders = set(current.buckets), 0
    for look in range(60):
        made = replanner.propose(look * LATER_NS, cost_of(ladder_of(sorted({*POWERS}))), current)
        if made is not None:
            ladders, current = ladders + 1, made
            ever |= set(made.buckets)
        for rows in rng.integers(1 + 8 * look, 40 + 8 * look, 4 * REQUESTS_MIN).clip(1, 512).tolist():
            replanner.observe(rows, 2 * rows)
    assert ladders > 3
    assert len(ever) == 3 * 2


def test_bucket_that_was_captured_once_is_used_again_when_no_more_may_be() -> None:
    replanner = fed(Replanner(CURRENT, fits=lambda buckets: len(buckets.buckets) <= len(POWERS) + 1), 70)
    first = replanner.propose(LATER_NS, COST, CURRENT)
    assert first is not None and Bucket(70, 140) in first.buckets
    assert replanner.propose(LATER_NS, COST, first) is None
    for look, (rows, found) in enumerate([(200, False), (70, True)], 2):
        for _ in range(20 * REQUESTS_MIN):
            replanner.observe(rows, 2 * rows)
        made = replanner.propose(look * LATER_NS, COST, CURRENT)
        assert (made is not None and Bucket(70, 140) in made.buckets) == found


def test_ladder_that_does_not_fit_is_not_proposed() -> None:
    asked = list[BucketLadder]()

    def fits(buckets: BucketLadder) -> bool:
        asked.append(buckets)
        return False

    assert fed(Replanner(CURRENT, fits=fits), 70).propose(LATER_NS, COST, CURRENT) is None
    assert asked and all(set(CURRENT.buckets) < set(buckets.buckets) for buckets in asked)


def test_request_with_many_ids_needs_a_bucket_with_room_for_them() -> None:
    replanner = fed(Replanner(CURRENT), 1, 0)
    for _ in range(REQUESTS_MIN):
        replanner.observe(3, 139)
    made = replanner.propose(LATER_NS, COST, CURRENT)
    assert made is not None and made.cover(3, 139) == Bucket(70, 140)


def test_request_beyond_the_largest_bucket_counts_as_its_pieces() -> None:
    made = fed(Replanner(CURRENT), 512 + 140).propose(LATER_NS, COST, CURRENT)
    assert made is not None and Bucket(140, 280) in made.buckets
    assert fed(Replanner(CURRENT), 2 * 512).propose(LATER_NS, COST, CURRENT) is None


def test_new_traffic_outweighs_old() -> None:
    replanner = fed(Replanner(CURRENT), 70, 4 * REQUESTS_MIN)
    current = replanner.propose(LATER_NS, COST, CURRENT)
    assert current is not None
    for look in range(2, 8):
        for _ in range(REQUESTS_MIN):
            replanner.observe(300, 600)
        current = replanner.propose(look * LATER_NS, COST, current) or current
    assert Bucket(300, 600) in current.buckets


def test_ladder_of_uneven_room_cannot_be_replanned() -> None:
    with pytest.raises(ValueError, match="same room for ids"):
        Replanner(BucketLadder((Bucket(1, 3), Bucket(2, 4))))

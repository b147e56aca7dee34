"""What a launch is thought to cost."""

import pytest

from narsil_transport.buckets import Bucket
from narsil_transport.cost import CostModel, LaunchCost

SMALL, LARGE = Bucket(1, 3), Bucket(8, 24)


def model() -> CostModel:
    return CostModel({LARGE: LaunchCost(8000, 16_000), SMALL: LaunchCost(1000, 1500)}, request_ns=50, reply_ns=70)


def test_estimate_starts_at_what_was_measured() -> None:
    cost = model()
    assert (cost.launch_ns(SMALL), cost.tail_ns(SMALL)) == (1000, 1500)
    assert cost.buckets == (SMALL, LARGE)


def test_observation_moves_the_estimate_by_an_eighth() -> None:
    cost = CostModel({SMALL: LaunchCost(1000, 1500)})
    cost.observe(SMALL, 1800)
    assert (cost.launch_ns(SMALL), cost.tail_ns(SMALL)) == (1100, 1650)


def test_outlier_counts_as_four_estimates() -> None:
    cost, other = CostModel({SMALL: LaunchCost(1000, 1500)}), CostModel({SMALL: LaunchCost(1000, 1500)})
    cost.observe(SMALL, 10**9)
    other.observe(SMALL, 4000)
    assert cost.launch_ns(SMALL) == other.launch_ns(SMALL) == 1375


def test_estimate_settles_at_what_launches_take() -> None:
    cost = model()
    for _ in range(100):
        cost.observe(SMALL, 3000)
    assert cost.launch_ns(SMALL) == 3000


def test_bucket_that_is_not_launched_follows_the_others() -> None:
    cost = model()
    for _ in range(300):
        cost.observe(SMALL, 2000)
    assert cost.launch_ns(LARGE) == 16_000


def test_bucket_that_looked_dear_once_is_not_dear_for_good() -> None:
    cost = model()
    cost.observe(LARGE, 10**9)
    assert cost.launch_ns(LARGE) == 11_000
    for _ in range(300):
        cost.observe(SMALL, 1000)
    assert cost.launch_ns(LARGE) == 8000


def test_revision_grows_by_drift_of_more_than_a_tenth() -> None:
    cost = CostModel({SMALL: LaunchCost(1000, 1500)})
    before = cost.revision
    cost.observe(SMALL, 1800)
    assert cost.launch_ns(SMALL) == 1100 and cost.revision == before
    cost.observe(SMALL, 1150)
    assert cost.revision == before + 1
    cost.observe(SMALL, 1150)
    assert cost.revision == before + 1


def test_messages_move_the_cost_of_one_by_an_eighth() -> None:
    cost = CostModel({SMALL: LaunchCost(1000, 1000)}, request_ns=80, reply_ns=40)
    cost.observe_requests(3, 3 * 160)
    cost.observe_replies(2, 2 * 80)
    assert (cost.request_ns, cost.reply_ns) == (90, 45)


def test_message_that_was_interrupted_counts_as_four() -> None:
    cost = CostModel({SMALL: LaunchCost(1000, 1000)}, request_ns=80)
    cost.observe_requests(1, 10**9)
    assert cost.request_ns == 80 + 3 * 80 // 8


def test_launch_that_answered_nobody_tells_nothing_of_a_reply() -> None:
    cost = CostModel({SMALL: LaunchCost(1000, 1000)}, reply_ns=40)
    cost.observe_replies(0, 10**6)
    assert cost.reply_ns == 40


def test_bucket_may_be_added_later() -> None:
    cost = model()
    before, bucket = cost.revision, Bucket(4, 12)
    with pytest.raises(KeyError):
        cost.launch_ns(bucket)
    cost.add(bucket, LaunchCost(4000, 4000))
    assert cost.launch_ns(bucket) == 4000 and cost.revision > before
    assert cost.buckets == (SMALL, bucket, LARGE)


def test_dictionary_tells_microseconds() -> None:
    cost = CostModel({SMALL: LaunchCost(1000, 1500)}, request_ns=50, reply_ns=70)
    cost.observe(SMALL, 1800)
    assert cost.to_dict() == {
        "request_us": 0.05,
        "reply_us": 0.07,
        "buckets": [{"rows": 1, "ids": 3, "median_us": 1.0, "p99_us": 1.5, "now_us": 1.1}],
    }


@pytest.mark.parametrize(("median_ns", "p99_ns"), [(0, 5), (5, 4)])
def test_cost_that_no_launch_has_cannot_be_built(median_ns: int, p99_ns: int) -> None:
    with pytest.raises(ValueError, match="median"):
        LaunchCost(median_ns, p99_ns)


@pytest.mark.parametrize(("request_ns", "reply_ns"), [(-1, 0), (0, -1)])
def test_cost_of_a_request_is_not_negative(request_ns: int, reply_ns: int) -> None:
    with pytest.raises(ValueError, match="request"):
        CostModel({}, request_ns=request_ns, reply_ns=reply_ns)

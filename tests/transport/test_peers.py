"""Windows and outboxes: what is owed is bounded, in order, and forgotten with its peer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narsil_transport.peers import REPLY_OVERHEAD_BYTES, RETRIES_MAX, RETRY_NS, Peers

A, B = b"a", b"b"


def sized(size: int) -> list[bytes]:
    """A reply that takes ``size`` bytes of an outbox."""
    return [bytes(size - REPLY_OVERHEAD_BYTES)]


def read_all(peers: Peers, identity: bytes) -> list[object]:
    got: list[object] = []
    while (frames := peers.oldest(identity)) is not None:
        got.append(frames)
        peers.sent(identity)
    return got


def test_window_is_each_peers_own() -> None:
    peers = Peers(window=2)
    assert [peers.enter(A), peers.enter(A), peers.enter(A), peers.enter(B)] == [True, True, False, True]
    assert peers.refused_by_window == 1


def test_answered_request_makes_room_for_one_more() -> None:
    peers = Peers(window=1)
    assert peers.enter(A) and not peers.enter(A)
    peers.left(A)
    assert peers.enter(A) and not peers.enter(A)


def test_late_reply_to_a_forgotten_peer_gives_it_no_credit() -> None:
    peers = Peers(window=1)
    peers.enter(A)
    peers.forget(A)
    peers.left(A)
    peers.left(A)
    assert peers.enter(A) and not peers.enter(A)


def test_outbox_gives_replies_in_their_order() -> None:
    peers = Peers(window=8)
    replies = [[b"%d" % number] for number in range(5)]
    assert all(peers.keep(A, reply) for reply in replies)
    assert peers.waiting and peers.waits(A) and not peers.waits(B)
    assert read_all(peers, A) == replies
    assert not peers.waiting and not peers.waits(A)


def test_full_outbox_drops_the_reply_and_the_peer_is_slow_until_it_has_read_all() -> None:
    peers = Peers(window=2)
    assert [peers.keep(A, [b"x"]) for _ in range(4)] == [True, True, False, False]
    assert (peers.dropped_replies, peers.slow, peers.slowed) == (2, {A}, 1)
    peers.sent(A)
    assert peers.slow == {A}
    peers.sent(A)
    assert not peers.slow
    assert peers.keep(A, [b"x"])


def test_outbox_is_full_by_its_bytes() -> None:
    peers = Peers(window=100, outbox_bytes_max=2000)
    assert [peers.keep(A, sized(1000)) for _ in range(3)] == [True, True, False]
    assert peers.slow == {A}
    assert peers.keep(B, sized(1000))


def test_outboxes_together_are_bounded_and_who_kept_nothing_is_not_slow() -> None:
    peers = Peers(window=100, outboxes_bytes_max=2000)
    assert peers.keep(A, sized(2000))
    assert not peers.keep(B, sized(1000))
    assert peers.dropped_replies == 1 and not peers.slow
    peers.sent(A)
    assert peers.keep(B, sized(2000))


def test_gone_peer_takes_its_replies_its_window_and_its_slowness_along() -> None:
    peers = Peers(window=2, outboxes_bytes_max=2000)
    peers.enter(A)
    peers.enter(A)
    for _ in range(3):
        peers.keep(A, sized(1000))
    peers.forget(A)
    # One that found no room, two that waited.
    assert (peers.dropped_replies, peers.slow, peers.waiting) == (3, set(), False)
    assert peers.take_gone() == {A} and not peers.gone
    assert peers.enter(A) and peers.keep(B, sized(2000))


def test_outboxes_are_tried_once_in_a_while() -> None:
    peers = Peers(window=2)
    peers.keep(A, [b"x"])
    now_ns = 10 * RETRY_NS
    assert peers.due(now_ns) == [A]
    assert peers.due(now_ns + RETRY_NS - 1) == []
    assert peers.due(now_ns + RETRY_NS) == [A]


def test_many_that_do_not_read_are_tried_in_turns() -> None:
    peers = Peers(window=2)
    everyone = [b"%d" % number for number in range(3 * RETRIES_MAX)]
    for identity in everyone:
        peers.keep(identity, [b"x"])
    turns = [peers.due(turn * RETRY_NS) for turn in range(1, 4)]
    assert [len(turn) for turn in turns] == [RETRIES_MAX] * 3
    assert sorted(identity for turn in turns for identity in turn) == sorted(everyone)


def test_window_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="want a window of at least 1, got 0"):
        Peers(window=0)


@given(
    st.lists(st.tuples(st.sampled_from(["keep", "sent", "forget"]), st.sampled_from([A, B]), st.integers(600, 3000))),
    st.integers(1, 4),
)
def test_bytes_that_wait_never_exceed_their_bound(steps: list[tuple[str, bytes, int]], window: int) -> None:
    bound = 4000
    peers = Peers(window=window, outbox_bytes_max=3000, outboxes_bytes_max=bound)
    waiting: dict[bytes, list[int]] = {A: [], B: []}
    for verb, identity, size in steps:
        if verb == "keep" and peers.keep(identity, sized(size)):
            waiting[identity].append(size)
        elif verb == "sent" and peers.waits(identity):
            peers.sent(identity)
            waiting[identity].pop(0)
        elif verb == "forget":
            peers.forget(identity)
            waiting[identity].clear()
        assert sum(map(sum, waiting.values())) <= bound
        assert all(len(sizes) <= window and sum(sizes) <= 3000 for sizes in waiting.values())
        assert [peers.waits(each) for each in (A, B)] == [bool(waiting[each]) for each in (A, B)]
        assert all(waiting[identity] for identity in peers.slow)

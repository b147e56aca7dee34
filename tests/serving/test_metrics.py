"""What is counted is what was done: launches by kind, and padding only where something was padded."""

import zmq

from narsil_graph.metrics import Counters
from narsil_transport.buckets import Bucket
from narsil_transport.router import Router
from narsil_transport.status import Status

ONE, EIGHT = Bucket(1, 10), Bucket(8, 80)
# Not open, so that it has counted nothing.
ROUTER = Router(bind="inproc://none", frames_bytes_max=1, receive_max=1)


def counted(*, eager: bool) -> Counters:
    counters = Counters(eager=eager)
    for bucket, rows in ((EIGHT, 5), (ONE, 1), (EIGHT, 8)):
        counters.launched(bucket, rows)
    return counters


def test_replays_are_counted_with_their_padding() -> None:
    counters = counted(eager=False)
    assert counters.to_dict(ROUTER, memory_cuts=0)["buckets"] == {
        "1": {"replayed": 1, "eager": 0, "rows": 1, "padded_rows": 0},
        "8": {"replayed": 2, "eager": 0, "rows": 13, "padded_rows": 3},
    }
    assert counters.line() == "launches=1:1/0/0,8:2/0/3"


def test_eager_launches_are_counted_apart_and_pad_nothing() -> None:
    counters = counted(eager=True)
    assert counters.to_dict(ROUTER, memory_cuts=0)["buckets"] == {
        "1": {"replayed": 0, "eager": 1, "rows": 1, "padded_rows": 0},
        "8": {"replayed": 0, "eager": 2, "rows": 13, "padded_rows": 0},
    }
    assert counters.line() == "launches=1:0/1/0,8:0/2/0"


def test_line_is_one_word_before_the_first_launch() -> None:
    assert Counters(eager=False).line() == "launches=none"


def test_replies_are_counted_by_status() -> None:
    counters = Counters(eager=False)
    for status in (Status.OK, Status.OVERLOADED, Status.OK):
        counters.answered(status)
    assert counters.to_dict(ROUTER, memory_cuts=0)["replies"] == {"OK": 2, "OVERLOADED": 1}


def test_what_the_router_saw_of_peers_and_connections_is_told() -> None:
    router = Router(bind="inproc://counted", frames_bytes_max=1, receive_max=1, window=1)
    counters = Counters(eager=False)
    counters.answered(Status.UNAUTHORIZED)
    for identity in (b"one", b"one", b"two"):
        router.peers.enter(identity)
    for _ in range(3):
        router.peers.keep(b"one", [b"reply"])
    router.connections.note(zmq.EVENT_ACCEPTED, 7)
    router.connections.note(zmq.EVENT_HANDSHAKE_FAILED_AUTH, 0)
    told = counters.to_dict(router, memory_cuts=4)
    assert told["dropped_replies"] == 2
    assert told["peers"] == {
        "slow": 1,
        "slowed": 1,
        "unserved_messages": 0,
        "refused_by_window": 1,
        "unauthorized": 1,
    }
    assert told["connections"] == {"open": 1, "refused": 0, "handshakes_failed": 1, "memory_cuts": 4}

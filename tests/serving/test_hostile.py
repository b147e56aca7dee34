"""Whatever peers send or stop reading, a good client's answers stay right and the server stays up."""

import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from narsil_graph.model.weights import Model
from narsil_transport.status import Status
from narsil_transport.wire import ControlRequest, Operation, RefusalReply, ScoresReply, encode_request
from tests.serving.peers import Peer, assert_right, multi_hot, one_hot
from tests.serving.processes import ServerProcess

ROUNDS = 40
BURST = 25


def mutated(frames: Sequence[bytes], random: Random) -> list[bytes]:
    """One to three random injuries."""
    hurt = [bytearray(frame) for frame in frames]
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(hurt))
        frame = hurt[at]
        match random.randrange(7):
            case 0 if frame:
                frame[random.randrange(len(frame))] = random.randrange(256)
            case 1 if frame:
                frame[random.randrange(min(len(frame), 60))] ^= 1 << random.randrange(8)
            case 2:
                del frame[random.randrange(len(frame) + 1) :]
            case 3:
                hurt.insert(at, bytearray(random.randbytes(random.randrange(200))))
            case 4 if len(hurt) > 1:
                del hurt[at]
            case 5:
                random.shuffle(hurt)
            case _:
                frame += random.randbytes(random.randrange(300))
    return [bytes(frame) for frame in hurt]


def test_thousands_of_injured_messages_are_each_answered_once_beside_right_scores(
    server: ServerProcess, peer: Peer, model: Model
) -> None:
    random = Random(20)
    seeds = [
        encode_request(one_hot(model, 3)),
        encode_request(multi_hot(model, 2)),
        encode_request(replace(multi_hot(model, 5), model=model.spec.name, deadline_us=1000, traceparent="0")),
        encode_request(ControlRequest(5, Operation.HEALTH)),
        [random.randbytes(80)],
    ]
    hostile = [Peer(server.endpoint) for _ in range(4)]
    good = [one_hot(model, 6), multi_hot(model, 6)]
    answers = 0
    for turn in range(ROUNDS):
        for enemy in hostile:
            for _ in range(BURST):
                enemy.send_frames(mutated(random.choice(seeds), random))
        assert_right(peer.scores(good[turn % 2]), model, good[turn % 2])
        for enemy in hostile:
            answers += len([enemy.receive() for _ in range(BURST)])
    assert answers == ROUNDS * BURST * len(hostile)
    for enemy in hostile:
        # Nothing more is on its way to it, and it is served as soon as it behaves.
        assert enemy.health().state.value == "ready"
        assert_right(enemy.scores(good[0]), model, good[0])
        enemy.close()


def test_connection_that_does_not_speak_zeromq_disturbs_no_one(server: ServerProcess, peer: Peer, model: Model) -> None:
    path, random = server.endpoint.removeprefix("ipc://"), Random(3)
    for payload in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" + b"\0" * 8 + b"\x7f\x03", random.randbytes(5000), b""):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(path)
            stranger.sendall(payload)
            assert_right(peer.scores(one_hot(model, 2)), model, one_hot(model, 2))


@pytest.fixture(scope="module")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A row a launch and a queue of 4096 rows: one large request keeps it busy for long enough to look."""
    arguments = ("--buckets", "1", "--queue-rows-max", "4096")
    with ServerProcess(tmp_path_factory.mktemp("slow"), *arguments) as running:
        yield running
        assert running.stop() == 0, running.log


def test_full_queue_refuses_by_type_and_serves_what_it_holds(slow_server: ServerProcess, model: Model) -> None:
    large = one_hot(model, 4096)
    with Peer(slow_server.endpoint) as peer:
        numbers = [peer.send(large) for _ in range(6)]
        replies = {reply.request_id: reply for reply in (peer.receive() for _ in numbers)}
        first, *others = (replies[number] for number in numbers)
        assert isinstance(first, ScoresReply)
        assert_right(first.scores, model, large)
        refused = [reply for reply in others if isinstance(reply, RefusalReply)]
        assert refused and {reply.refusal.status for reply in refused} == {Status.OVERLOADED}
        assert "the queue holds" in refused[0].refusal.detail
        # Once the queue has drained it takes work again.
        assert_right(peer.scores(one_hot(model, 2)), model, one_hot(model, 2))
        assert peer.health().inflight == 0


def test_peer_that_vanishes_with_requests_in_flight_costs_only_its_own_replies(
    slow_server: ServerProcess, model: Model
) -> None:
    vanishing = Peer(slow_server.endpoint)
    vanishing.send(one_hot(model, 4000))
    vanishing.send(one_hot(model, 90))
    # Its answer says that both requests are in the queue.
    assert vanishing.health().inflight == 2
    vanishing.close()
    with Peer(slow_server.endpoint) as peer:
        assert_right(peer.scores(one_hot(model, 4)), model, one_hot(model, 4))
        assert peer.metadata().meta["counters"]["dropped_replies"] == 2


def test_peer_that_never_reads_does_not_stop_the_others(server: ServerProcess, peer: Peer, model: Model) -> None:
    with Peer(server.endpoint) as deaf:
        deaf.socket.rcvhwm = 1
        for _ in range(3000):
            deaf.send_frames([b"no header"])
        assert_right(peer.scores(one_hot(model, 4)), model, one_hot(model, 4))


def test_log_of_refusals_stays_empty(server: ServerProcess, peer: Peer, tmp_path: Path) -> None:
    before = server.log
    for _ in range(20):
        peer.send_frames([b"no header"])
        peer.receive()
    assert server.log == before
    assert "Traceback" not in before

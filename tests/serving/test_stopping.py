"""How a server ends: told once it finishes its work, told twice it leaves, broken it says so to everyone."""

import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
import zmq

from narsil_graph.build import EngineConfig, build_engine
from narsil_graph.engine.arena import RowRange
from narsil_graph.engine.engine import Engine, Flight
from narsil_graph.limits import limits_of
from narsil_graph.metrics import Counters
from narsil_graph.model.weights import Model
from narsil_graph.server import Server
from narsil_graph.stop_signals import StopSignals
from narsil_transport.batcher import Mode
from narsil_transport.buckets import Bucket
from narsil_transport.router import Router
from narsil_transport.status import Status
from narsil_transport.wire import ControlRequest, HealthReply, Operation, RefusalReply, ScoresReply, encode_request
from tests.serving.peers import Peer, Reply, assert_right, one_hot
from tests.serving.processes import ServerProcess
from tests.serving.scripted import scheduled

# A row a launch: thousands of rows take long enough to signal between them.
SLOW = ("--buckets", "1", "--mode", "worker")


def health_amid(peer: Peer, replies: dict[int, Reply]) -> HealthReply:
    """The answer to a HEALTH question; what comes before it goes to ``replies``."""
    peer.send_frames(encode_request(ControlRequest(999, Operation.HEALTH)))
    while not isinstance(reply := peer.receive(), HealthReply):
        replies[reply.request_id] = reply
    return reply


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_answers_every_accepted_request_and_ends_with_0(
    tmp_path_factory: pytest.TempPathFactory, model: Model, number: signal.Signals
) -> None:
    request, replies = one_hot(model, 2000), dict[int, Reply]()
    with ServerProcess(tmp_path_factory.mktemp("drained"), *SLOW) as server, Peer(server.endpoint) as peer:
        sent = {peer.send(request) for _ in range(8)}
        assert health_amid(peer, replies).inflight + len(replies) == 8
        server.process.send_signal(number)
        while health_amid(peer, replies).state.value == "ready":
            pass
        late = peer.send(one_hot(model, 1))
        while len(replies) < len(sent) + 1:
            reply = peer.receive()
            replies[reply.request_id] = reply
        assert server.ended() == 0
        assert_refused(replies.pop(late), Status.DRAINING)
        assert set(replies) == sent
        for reply in replies.values():
            assert isinstance(reply, ScoresReply)
            assert_right(reply.scores, model, request)
        assert "Traceback" not in server.log


def test_second_signal_ends_it_at_once(tmp_path_factory: pytest.TempPathFactory, model: Model) -> None:
    replies: dict[int, Reply] = {}
    with ServerProcess(tmp_path_factory.mktemp("hurried"), *SLOW) as server, Peer(server.endpoint) as peer:
        sent = [peer.send(one_hot(model, 4096)) for _ in range(15)]
        server.process.send_signal(signal.SIGTERM)
        while health_amid(peer, replies).state.value == "ready":
            pass
        assert server.stop() == 128 + signal.SIGTERM
        # It did not stay for the rest of its work.
        assert len(replies) < len(sent)
        assert "Traceback" not in server.log


def assert_refused(reply: Reply, status: Status) -> None:
    assert isinstance(reply, RefusalReply), reply
    assert reply.refusal.status is status


@dataclass
class Local:
    """A server in this thread, and a peer whose messages it has the moment they are sent."""

    server: Server
    peer: Peer
    engine: Engine

    def run(self) -> None:
        with StopSignals() as stop:
            self.server.run(stop)

    def replies(self, numbers: Iterable[int]) -> dict[int, Reply]:
        """One reply to each of these, and no more."""
        got = {reply.request_id: reply for reply in (self.peer.receive() for _ in numbers)}
        assert set(got) == set(numbers)
        assert not self.peer.socket.poll(0)
        return got


@pytest.fixture
def local(model: Model, fbgemm_library: None) -> Iterator[Local]:
    engine = build_engine(model, EngineConfig(device="cpu", bucket_rows=(8,)))
    engine.capture_all(lambda bucket, captured: None)
    with (
        zmq.Context() as context,
        Router(bind="inproc://server", frames_bytes_max=1 << 20, receive_max=8, context=context) as router,
        Peer("inproc://server", context=context) as peer,
    ):
        limits = limits_of(model.spec, rows_max=64, ids_per_row_max=engine.ladder.ids_max)
        server = Server(
            router=router,
            engine=engine,
            schedule=scheduled(engine, mode=Mode.WORKER),
            limits=limits,
            model=model,
            counters=Counters(eager=False),
            verify=lambda bucket: None,
        )
        yield Local(server, peer, engine)


def before_launch(local: Local, launch: int, act: object) -> None:
    """Do ``act`` before the launch of this number, counted from 1."""
    submit, launches = local.engine.submit, 0

    def counted(bucket: Bucket, row_ranges: Iterable[RowRange]) -> Flight:
        nonlocal launches
        launches += 1
        if launches == launch:
            assert callable(act)
            act()
        return submit(bucket, row_ranges)

    local.engine.submit = counted  # type: ignore[method-assign]


def break_down() -> None:
    raise RuntimeError("no such memory")


def test_accepted_requests_are_answered_and_those_still_in_the_socket_refused(local: Local, model: Model) -> None:
    before_launch(local, 1, lambda: signal.raise_signal(signal.SIGTERM))
    numbers = [local.peer.send(one_hot(model, 3)) for _ in range(30)]
    local.run()
    replies = local.replies(numbers)
    for number in numbers[:8]:
        accepted = replies[number]
        assert isinstance(accepted, ScoresReply)
        assert_right(accepted.scores, model, one_hot(model, 3))
    for number in numbers[8:]:
        assert_refused(replies[number], Status.DRAINING)


def test_signal_before_the_first_request_ends_the_server(local: Local) -> None:
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        local.server.run(stop)
    assert local.server.door.draining


def test_broken_engine_is_told_to_everyone_who_waits_and_ends_the_server(local: Local, model: Model) -> None:
    before_launch(local, 3, break_down)
    numbers = [local.peer.send(one_hot(model, 3)) for _ in range(30)]
    with pytest.raises(RuntimeError, match="no such memory"):
        local.run()
    replies = local.replies(numbers)
    statuses = [reply.refusal.status if isinstance(reply, RefusalReply) else Status.OK for reply in replies.values()]
    # Two were scored; each turn of the loop had read up to eight more; the rest was still in the socket.
    assert statuses == [Status.OK] * 2 + [Status.UNAVAILABLE] * 22 + [Status.DRAINING] * 6


def test_engine_that_breaks_amid_a_split_request_answers_it_once(local: Local, model: Model) -> None:
    before_launch(local, 3, break_down)
    number = local.peer.send(one_hot(model, 60))
    with pytest.raises(RuntimeError):
        local.run()
    assert_refused(local.replies([number])[number], Status.UNAVAILABLE)


# The start-up check needs a sound engine: it breaks as soon as the server is ready.
BREAKING = """
from narsil_graph import serving
from narsil_graph.__main__ import main
from narsil_graph.engine.engine import Engine

def fail(self, bucket, row_ranges):
    raise RuntimeError("no such memory")

def tell_and_break(*arguments):
    tell_ready(*arguments)
    Engine.submit = fail

tell_ready, serving.tell_ready = serving.tell_ready, tell_and_break
main()
"""


def test_broken_engine_ends_the_process_with_a_failure(tmp_path_factory: pytest.TempPathFactory, model: Model) -> None:
    folder = tmp_path_factory.mktemp("broken")
    with ServerProcess(folder, "--buckets", "8", python=("-c", BREAKING)) as server, Peer(server.endpoint) as peer:
        assert_refused(peer.ask(one_hot(model, 3)), Status.UNAVAILABLE)
        assert server.ended() == 1
        assert "no such memory" in server.log

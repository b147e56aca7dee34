"""The router on real sockets: what it keeps of a message, and that no peer can block it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from narsil_transport.router import BindError, Message, Route, Router
from narsil_transport.status import Status
from narsil_transport.wire import TENSORS_MAX, Refused, decode_request, encode_request
from tests.transport.requests import one_hot

# Only a failing test waits this long.
PATIENCE_MS = 5000
HEADER, DENSE, IDS = encode_request(one_hot(2))


@pytest.fixture
def context() -> Iterator[zmq.SyncContext]:
    with zmq.Context() as made:
        made.linger = 0
        yield made


@pytest.fixture(params=["inproc", "ipc", "tcp"])
def bind(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {"inproc": "inproc://router", "ipc": f"ipc://{tmp_path}/r", "tcp": "tcp://127.0.0.1:*"}[request.param]


@pytest.fixture
def router(context: zmq.SyncContext, bind: str) -> Iterator[Router]:
    with Router(bind=bind, frames_bytes_max=1 << 16, receive_max=8, context=context) as opened:
        yield opened


def peer(context: zmq.SyncContext, router: Router, kind: int = zmq.DEALER) -> zmq.SyncSocket:
    client = context.socket(kind)
    client.rcvtimeo = PATIENCE_MS
    client.connect(router.endpoint)
    return client


def received(router: Router, count: int) -> list[Message]:
    messages: list[Message] = []
    while len(messages) < count:
        assert router.wait(PATIENCE_MS), f"only {len(messages)} of {count} messages came"
        messages += router.receive()
    return messages


def test_request_arrives_whole_and_its_reply_returns(context: zmq.SyncContext, router: Router) -> None:
    with peer(context, router) as client:
        client.send_multipart([HEADER, DENSE, IDS])
        (message,) = received(router, 1)
        assert (message.header, message.tensors, message.route.delimiter) == (HEADER, [DENSE, IDS], False)
        assert router.send(message.route, [b"head", b"scores"])
        assert client.recv_multipart() == [b"head", b"scores"]


def test_delimiter_of_a_req_is_echoed(context: zmq.SyncContext, router: Router) -> None:
    with peer(context, router, zmq.REQ) as client:
        client.send_multipart([HEADER, DENSE, IDS])
        (message,) = received(router, 1)
        assert message.route.delimiter and message.header == HEADER and len(message.tensors) == 2
        assert router.send(message.route, (b"refusal",))
        assert client.recv_multipart() == [b"refusal"]


def refused(message: Message) -> Refused:
    decoded = decode_request(message.header, message.tensors)
    assert isinstance(decoded, Refused) and decoded.refusal.status is Status.INVALID
    return decoded


def test_truncated_message_is_refused_and_the_next_one_is_whole(context: zmq.SyncContext, router: Router) -> None:
    with peer(context, router) as client:
        client.send_multipart([HEADER, DENSE])
        client.send_multipart([HEADER, DENSE, IDS])
        short, whole = received(router, 2)
        assert refused(short).request_id == 1
        assert whole.tensors == [DENSE, IDS]


@pytest.mark.parametrize("surplus", [1, 57])
def test_surplus_frames_are_dropped_refused_and_the_next_message_is_whole(
    context: zmq.SyncContext, router: Router, surplus: int
) -> None:
    with peer(context, router) as client:
        client.send_multipart([HEADER, DENSE, IDS, *[b"more"] * surplus])
        client.send_multipart([HEADER, DENSE, IDS])
        long, whole = received(router, 2)
        assert refused(long).request_id == 1 and len(long.tensors) == min(2 + surplus, TENSORS_MAX + 1)
        assert whole.tensors == [DENSE, IDS]


@pytest.mark.parametrize("frames", [[b""], [b"", b""], [b"x"]])
def test_message_without_a_header_is_refused(context: zmq.SyncContext, router: Router, frames: list[bytes]) -> None:
    with peer(context, router) as client:
        client.send_multipart(frames)
        (message,) = received(router, 1)
        assert refused(message).request_id == 0


def test_one_receive_gives_no_more_than_its_limit(context: zmq.SyncContext, router: Router) -> None:
    with peer(context, router) as client:
        for _ in range(20):
            client.send_multipart([HEADER, DENSE, IDS])
        assert len(received(router, 1)) <= 8
        assert len(received(router, 1)) <= 8


def test_receive_without_a_message_returns_at_its_timeout(router: Router) -> None:
    assert not router.wait(0)
    assert not [*router.receive()]


def test_reply_to_a_peer_never_seen_is_dropped_and_counted(router: Router) -> None:
    assert not router.send(Route(b"nobody", delimiter=False), [b"head", b"scores"])
    assert router.dropped_replies == 1


def test_reply_to_a_vanished_peer_neither_blocks_nor_hurts_others(context: zmq.SyncContext, router: Router) -> None:
    with peer(context, router) as client, peer(context, router) as other:
        client.send_multipart([HEADER, DENSE, IDS])
        (message,) = received(router, 1)
        client.close(0)
        other.send_multipart([HEADER, DENSE, IDS])
        (neighbour,) = received(router, 1)
        # The peer's pipe takes replies until libzmq has noticed that the peer left.
        while router.send(message.route, [b"late"]):
            router.wait(1)
        assert router.dropped_replies == 1
        assert router.send(neighbour.route, [b"head"]) and other.recv_multipart() == [b"head"]


def test_peer_that_does_not_read_is_dropped_not_waited_for(context: zmq.SyncContext) -> None:
    with Router(bind="inproc://full", frames_bytes_max=1 << 16, receive_max=8, context=context) as router:
        client = context.socket(zmq.DEALER)
        client.rcvhwm = 1
        client.connect("inproc://full")
        client.send_multipart([HEADER, DENSE, IDS])
        (message,) = received(router, 1)
        while router.send(message.route, [b"head", b"scores"]):
            pass
        assert router.dropped_replies == 1
        client.close(0)


def test_frame_over_the_limit_costs_its_peer_the_connection(context: zmq.SyncContext) -> None:
    with (
        Router(bind="tcp://127.0.0.1:*", frames_bytes_max=1000, receive_max=8, context=context) as router,
        peer(context, router) as greedy,
        greedy.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor,
    ):
        greedy.send(bytes(1001))
        assert monitor.poll(PATIENCE_MS)
        assert not [*router.receive()]
        greedy.disable_monitor()


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://nowhere", "ipc:///no/such/folder/socket"])
def test_bad_endpoint_is_a_bind_error_that_names_it(endpoint: str) -> None:
    with pytest.raises(BindError, match=f"cannot bind {endpoint}"):
        Router(bind=endpoint, frames_bytes_max=1, receive_max=1).open()


def test_second_server_on_an_endpoint_is_refused_and_the_first_lives(context: zmq.SyncContext, router: Router) -> None:
    second = Router(bind=router.endpoint, frames_bytes_max=1, receive_max=1, context=context)
    with pytest.raises(BindError, match="cannot bind"):
        second.open()
    second.close()
    with peer(context, router) as client:
        client.send_multipart([HEADER, DENSE, IDS])
        assert received(router, 1)


def test_ipc_path_of_a_dead_server_is_taken_over(tmp_path: Path) -> None:
    bind = f"ipc://{tmp_path}/r"
    with Router(bind=bind, frames_bytes_max=1, receive_max=1) as first:
        path = tmp_path / "r"
        assert path.exists() and first.endpoint == bind
        path.rename(tmp_path / "left-behind")
    (tmp_path / "left-behind").rename(path)
    with Router(bind=bind, frames_bytes_max=1, receive_max=1) as second:
        assert second.endpoint == bind


def test_ipc_path_is_gone_after_close(tmp_path: Path) -> None:
    with Router(bind=f"ipc://{tmp_path}/r", frames_bytes_max=1, receive_max=1):
        pass
    assert not (tmp_path / "r").exists()


def test_own_context_serves_and_a_second_close_does_nothing() -> None:
    router = Router(bind="tcp://127.0.0.1:*", frames_bytes_max=1 << 16, receive_max=8)
    router.open()
    with zmq.Context() as context, peer(context, router) as client:
        client.send_multipart([HEADER, DENSE, IDS])
        (message,) = received(router, 1)
        router.send(message.route, [b"last"])
        router.close()
        router.close()
        assert client.recv_multipart() == [b"last"]


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="positive limits"):
        Router(bind="tcp://127.0.0.1:*", frames_bytes_max=0, receive_max=1)

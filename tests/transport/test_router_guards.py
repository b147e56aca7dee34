"""The router against peers that do not read, crowd in, or never finish: what they cost others is nothing."""

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from narsil_transport.router import Route, Router
from tests.transport.raw_peer import connected, part
from tests.transport.test_router import PATIENCE_MS, peer, received


@pytest.fixture
def context() -> Iterator[zmq.SyncContext]:
    with zmq.Context() as made:
        made.linger = 0
        yield made


@pytest.fixture(params=["ipc", "tcp"])
def bind(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {"ipc": f"ipc://{tmp_path}/r", "tcp": "tcp://127.0.0.1:*"}[request.param]


def routed(context: zmq.SyncContext, bind: str, *, window: int = 8, connections_max: int = 100) -> Router:
    return Router(
        bind=bind,
        frames_bytes_max=1 << 20,
        receive_max=8,
        window=window,
        connections_max=connections_max,
        context=context,
    )


def wait_until(router: Router, happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_MS / 1000
    while not happened():
        assert time.monotonic() < end
        router.wait(1)


def test_replies_to_a_full_pipe_wait_and_arrive_in_order(context: zmq.SyncContext) -> None:
    with routed(context, "inproc://slow") as router, context.socket(zmq.DEALER) as client:
        client.rcvhwm = 1
        client.connect("inproc://slow")
        client.send(b"hello")
        (message,) = received(router, 1)
        sent = 0
        while not router.peers.waiting:
            assert router.send(message.route, [b"%d" % sent, b"scores"])
            sent += 1
        assert router.send(message.route, [b"%d" % sent, b"scores"])
        got: list[bytes] = []

        def all_read() -> bool:
            while client.poll(0):
                got.append(client.recv_multipart()[0])
            return len(got) == sent + 1

        wait_until(router, all_read)
        assert got == [b"%d" % number for number in range(sent + 1)]
        assert not router.peers.waiting and router.dropped_replies == 0


def test_peer_that_does_not_read_is_not_served_until_it_has_read(context: zmq.SyncContext) -> None:
    with (
        routed(context, "inproc://deaf") as router,
        context.socket(zmq.DEALER) as client,
        peer(context, router) as good,
    ):
        client.rcvhwm = 1
        client.connect("inproc://deaf")
        client.send(b"hello")
        (message,) = received(router, 1)
        while router.send(message.route, [b"reply"]):
            pass
        assert router.peers.slow == {message.route.identity}
        client.send(b"more work")
        good.send(b"other work")
        assert [each.header for each in received(router, 1)] == [b"other work"]
        assert router.peers.unserved == 1

        def served_again() -> bool:
            while client.poll(0):
                client.recv()
            return not router.peers.slow

        wait_until(router, served_again)
        client.send(b"at last")
        assert [each.header for each in received(router, 1)] == [b"at last"]


def test_deaf_peer_costs_a_good_ones_replies_nothing(context: zmq.SyncContext) -> None:
    with routed(context, "inproc://both") as router, context.socket(zmq.DEALER) as deaf, peer(context, router) as good:
        deaf.rcvhwm = 1
        deaf.connect("inproc://both")
        deaf.send(b"hello")
        (message,) = received(router, 1)
        while router.send(message.route, [b"reply"]):
            pass
        for number in range(50):
            good.send(b"work")
            (asked,) = received(router, 1)
            assert router.send(asked.route, [b"%d" % number])
            assert good.recv() == b"%d" % number


def test_peer_that_vanishes_with_a_full_outbox_is_forgotten(context: zmq.SyncContext) -> None:
    with routed(context, "inproc://vanishing") as router:
        client = context.socket(zmq.DEALER)
        client.rcvhwm = 1
        client.connect("inproc://vanishing")
        client.send(b"hello")
        (message,) = received(router, 1)
        while router.send(message.route, [b"reply"]):
            pass
        client.close(0)
        wait_until(router, lambda: not router.peers.waiting)
        assert router.peers.take_gone() == {message.route.identity}
        assert router.dropped_replies == 1 + router.peers.window


def test_window_of_replies_fits_a_pipe_even_before_it_is_read(context: zmq.SyncContext, bind: str) -> None:
    """What a peer that keeps its window can be owed never needs an outbox."""
    window = 100
    with routed(context, bind, window=window) as router, peer(context, router) as client:
        client.send(b"hello")
        (message,) = received(router, 1)
        for _ in range(4):
            for _ in range(window):
                assert router.send(message.route, [bytes(16384)])
            assert not router.peers.waiting
            for _ in range(window):
                client.recv()


def test_connection_beyond_the_maximum_is_closed_and_the_others_stay(context: zmq.SyncContext, bind: str) -> None:
    with routed(context, bind, connections_max=2) as router, peer(context, router) as first:
        first.send(b"one")
        (message,) = received(router, 1)
        second = connected(router.endpoint)
        wait_until(router, lambda: router.connections.count == 2)
        surplus = connected(router.endpoint)
        wait_until(router, lambda: router.connections.refused == 1)
        while surplus.recv(4096):
            pass
        first.send(b"two")
        assert [each.route for each in received(router, 1)] == [message.route]
        second.close()
        wait_until(router, lambda: router.connections.count == 1)
        with peer(context, router) as next_one:
            next_one.send(b"three")
            assert [each.header for each in received(router, 1)] == [b"three"]
        surplus.close()


def test_client_is_served_while_a_crowd_is_turned_away(context: zmq.SyncContext, bind: str) -> None:
    with routed(context, bind, connections_max=1) as router, peer(context, router) as good:
        good.send(b"first")
        (message,) = received(router, 1)
        crowd = [connected(router.endpoint) for _ in range(20)]
        for _ in range(100):
            good.send(b"work")
            (asked,) = received(router, 1)
            assert asked.route == message.route
        wait_until(router, lambda: router.connections.refused == len(crowd))
        for each in crowd:
            each.close()


def resident_mib() -> int:
    """After the allocator has given back what libzmq's threads have freed, which it does not do by itself."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def test_cut_frees_an_unfinished_message_and_zeromq_peers_come_back(context: zmq.SyncContext, bind: str) -> None:
    with routed(context, bind) as router, peer(context, router) as good:
        good.send(b"before")
        received(router, 1)
        before = resident_mib()
        body = bytes(range(256)) * 4096
        with connected(router.endpoint) as raw:
            for _ in range(100):
                raw.sendall(part(body))
            wait_until(router, lambda: resident_mib() > before + 80)
            assert not router.wait(0)
            router.cut()
            wait_until(router, lambda: resident_mib() < before + 20)

        def back() -> bool:
            # What is sent before the peer has noticed the cut is lost.
            good.send(b"after")
            return router.wait(20)

        wait_until(router, back)
        assert {each.header for each in router.receive()} == {b"after"}


def test_last_replies_leave_a_router_that_closes_as_soon_as_they_are_read(context: zmq.SyncContext) -> None:
    router = routed(context, "inproc://last", window=4)
    with router, context.socket(zmq.DEALER) as client:
        client.rcvhwm = 1
        client.connect("inproc://last")
        client.send(b"hello")
        (message,) = received(router, 1)
        sent = 0
        while not router.peers.waiting:
            router.send(message.route, [b"%d" % sent])
            sent += 1
        # All but the last of what fills the pipe, so that it has room at the first try.
        for _ in range(sent - 1):
            client.recv()
        router.close()
        assert client.recv() == b"%d" % (sent - 1)


def test_reply_that_finds_nobody_forgets_the_peer(context: zmq.SyncContext) -> None:
    with routed(context, "inproc://nobody") as router:
        assert not router.send(Route(b"nobody", delimiter=False), [b"reply"])
        assert router.peers.take_gone() == {b"nobody"}

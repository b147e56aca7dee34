"""Who may open the router's door: its ipc file, and the security that names each message's sender."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from narsil_transport.router import Router
from tests.transport.test_router import PATIENCE_MS, peer, received


@pytest.fixture
def context() -> Iterator[zmq.SyncContext]:
    with zmq.Context() as made:
        made.linger = 0
        yield made


@pytest.fixture(params=["ipc", "tcp"])
def bind(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {"ipc": f"ipc://{tmp_path}/r", "tcp": "tcp://127.0.0.1:*"}[request.param]


@pytest.mark.parametrize("umask", [0, 0o022])
def test_ipc_socket_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with Router(bind=f"ipc://{tmp_path}/r", frames_bytes_max=1, receive_max=1):
            assert stat.S_IMODE((tmp_path / "r").stat().st_mode) == 0o600
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


def test_ipc_socket_is_never_wider_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []

    def noted(path: Path, mode: int) -> None:
        modes.append(stat.S_IMODE(path.stat().st_mode))

    monkeypatch.setattr(Path, "chmod", noted)
    with Router(bind=f"ipc://{tmp_path}/r", frames_bytes_max=1, receive_max=1):
        assert [mode & 0o077 for mode in modes] == [0]


class Doorman:
    """Lets everybody in, and says of each handshake that it happened."""

    def __init__(self) -> None:
        self.applied: list[zmq.SyncSocket] = []
        self.handled = 0
        self.closed = False
        self._zap: zmq.SyncSocket | None = None

    @property
    def zap_socket(self) -> zmq.SyncSocket:
        assert self._zap is not None
        return self._zap

    def apply(self, socket: zmq.SyncSocket, context: zmq.SyncContext) -> None:
        assert not socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0"), "security comes before the door is open"
        self.applied.append(socket)
        socket.zap_domain = b"narsil"
        self._zap = context.socket(zmq.REP)
        self._zap.bind("inproc://zeromq.zap.01")

    def handle(self) -> None:
        version, request_id, *_ = self.zap_socket.recv_multipart()
        self.handled += 1
        self.zap_socket.send_multipart([version, request_id, b"200", b"OK", b"somebody", b""])

    def permits(self, user_id: str) -> bool:
        return user_id == "somebody"

    def reload(self) -> list[str]:
        return []

    def close(self) -> None:
        if self._zap is not None:
            self._zap.close()
        self.closed = True


def test_security_answers_handshakes_while_the_router_waits_and_names_each_messages_sender(
    context: zmq.SyncContext, bind: str
) -> None:
    doorman = Doorman()
    router = Router(bind=bind, frames_bytes_max=1 << 16, receive_max=8, security=doorman, context=context)
    with router, peer(context, router) as client:
        client.send_multipart([b"", b"with a delimiter"])
        client.send(b"without")
        # Not True for the handshake, but for what came after it.
        assert router.wait(PATIENCE_MS)
        assert [message.user for message in received(router, 2)] == ["somebody"] * 2
        assert (len(doorman.applied), doorman.handled) == (1, 1)
    assert doorman.closed


def test_message_without_a_handshake_is_nobodys(context: zmq.SyncContext) -> None:
    router = Router(bind="inproc://bare", frames_bytes_max=1, receive_max=8, security=Doorman(), context=context)
    with router, peer(context, router) as client:
        client.send(b"hello")
        assert [message.user for message in received(router, 1)] == [""]

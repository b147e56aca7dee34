"""CURVE on real sockets: who gets in, who is cut off when the folder changes; no question breaks the answer."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from narsil_transport.curve import HANDSHAKES_MAX, ZAP_DOMAIN, ZAP_ENDPOINT, CurveServer, zap_reply
from narsil_transport.keys import KeyFileError, write_key_pair

# Only a failing test waits this long.
PATIENCE_S = 5.0
HANDSHAKES = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
KEY = bytes(range(32))
USER = z85.encode(KEY).decode()
REQUEST = [b"1.0", b"7", ZAP_DOMAIN, b"127.0.0.1", b"", b"CURVE", KEY]
Keys = tuple[bytes, bytes]


class Door:
    """A ROUTER behind CURVE on a loopback port, whose loop turns only while a test waits for something."""

    def __init__(self, context: zmq.SyncContext, folder: Path) -> None:
        self.context = context
        self.allowed = folder / "authorized_clients"
        self.allowed.mkdir()
        self.public = write_key_pair(folder, "server")
        self.curve = CurveServer.read(secret_key_file=folder / "server.key_secret", authorized_clients=self.allowed)
        self.router = self.bound()

    def bound(self) -> zmq.SyncSocket:
        router = self.context.socket(zmq.ROUTER)
        self.curve.apply(router, self.context)
        router.bind("tcp://127.0.0.1:*")
        return router

    def close(self) -> None:
        self.router.close()
        self.curve.close()

    def allow(self, name: str, public: bytes) -> None:
        (self.allowed / f"{name}.key").write_bytes(public)
        assert self.curve.reload() == []

    @contextmanager
    def client(self, keys: Keys | None, server: bytes | None = None) -> Generator["Client"]:
        """A connected DEALER, and its monitor; no keys is a client without CURVE."""
        client = self.context.socket(zmq.DEALER)
        if keys is not None:
            client.curve_publickey, client.curve_secretkey = keys
            client.curve_serverkey = server or self.public
        monitor = client.get_monitor_socket(HANDSHAKES)
        client.connect(self.router.get_string(zmq.LAST_ENDPOINT).rstrip("\0"))
        try:
            yield Client(self, client, monitor)
        finally:
            client.disable_monitor()
            monitor.close()
            client.close()

    def until(self, awaited: zmq.SyncSocket) -> None:
        """Turn the loop until there is something to read."""
        poller = zmq.Poller()
        for socket in (self.curve.zap_socket, awaited):
            poller.register(socket, zmq.POLLIN)
        end = monotonic() + PATIENCE_S
        while True:
            ready = dict(poller.poll(int((end - monotonic()) * 1000)))
            assert ready, "nothing came"
            if self.curve.zap_socket in ready:
                self.curve.handle()
            if awaited in ready:
                return


class Client:
    def __init__(self, door: Door, socket: zmq.SyncSocket, monitor: zmq.SyncSocket) -> None:
        self.door, self.socket, self.monitor = door, socket, monitor

    def handshake(self) -> tuple[int, int]:
        """How the handshake ended, and the event's value."""
        self.door.until(self.monitor)
        message = recv_monitor_message(self.monitor)
        return message["event"], message["value"]

    def user(self) -> str:
        """The User-Id of a message from this client, as the server sees it."""
        self.socket.send(b"hello")
        self.door.until(self.door.router)
        self.door.router.recv()
        frame = self.door.router.recv(copy=False)
        assert frame.bytes == b"hello"
        user = frame.get("User-Id")
        assert isinstance(user, str)
        return user


@pytest.fixture
def context() -> Iterator[zmq.SyncContext]:
    with zmq.Context() as made:
        made.linger = 0
        yield made


@pytest.fixture
def door(context: zmq.SyncContext, tmp_path: Path) -> Iterator[Door]:
    opened = Door(context, tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def keys(door: Door) -> Keys:
    """Those of a client that is allowed."""
    public, secret = zmq.curve_keypair()
    door.allow("client", public)
    return public, secret


def test_allowed_client_is_served_and_named_by_its_key(door: Door, keys: Keys) -> None:
    with door.client(keys) as client:
        user = client.user()
        assert client.handshake()[0] == zmq.EVENT_HANDSHAKE_SUCCEEDED
    assert user == keys[0].decode()
    assert door.curve.permits(user)


def test_key_that_is_not_allowed_is_told_so(door: Door, keys: Keys) -> None:
    with door.client(zmq.curve_keypair()) as stranger:
        assert stranger.handshake() == (zmq.EVENT_HANDSHAKE_FAILED_AUTH, 400)


def test_client_without_curve_is_not_let_in(door: Door, keys: Keys) -> None:
    with door.client(None) as plain:
        plain.socket.send(b"hello")
        assert plain.handshake()[0] == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        assert not door.router.poll(0)


def test_client_of_another_servers_key_is_not_let_in(door: Door, keys: Keys) -> None:
    with door.client(keys, server=zmq.curve_keypair()[0]) as lost:
        lost.socket.send(b"hello")
        assert lost.handshake()[0] == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        assert not door.router.poll(0)


def test_public_key_without_its_secret_is_not_let_in(door: Door, keys: Keys) -> None:
    with door.client((keys[0], zmq.curve_keypair()[1])) as thief:
        thief.socket.send(b"hello")
        assert thief.handshake()[0] != zmq.EVENT_HANDSHAKE_SUCCEEDED
        assert not door.router.poll(0)


def test_removed_key_is_refused_on_its_old_connection_and_on_a_new_one(door: Door, keys: Keys) -> None:
    with door.client(keys) as client:
        assert door.curve.permits(client.user())
        (door.allowed / "client.key").unlink()
        assert door.curve.reload() == []
        assert not door.curve.permits(client.user())
        with door.client(keys) as again:
            assert again.handshake() == (zmq.EVENT_HANDSHAKE_FAILED_AUTH, 400)


def test_new_key_is_let_in_without_a_restart(door: Door, keys: Keys) -> None:
    late = zmq.curve_keypair()
    with door.client(keys) as early, door.client(late) as refused:
        assert early.user() == keys[0].decode()
        assert refused.handshake()[0] == zmq.EVENT_HANDSHAKE_FAILED_AUTH
        door.allow("late", late[0])
        with door.client(late) as let_in:
            assert let_in.user() == late[0].decode()
        assert early.user() == keys[0].decode()


def test_nobody_gets_in_where_nobody_answers(door: Door, keys: Keys) -> None:
    with zmq.Context() as elsewhere, elsewhere.socket(zmq.ROUTER) as unanswered:
        door.curve.apply(unanswered, elsewhere)
        unanswered.bind("tcp://127.0.0.1:*")
        door.router.close()
        door.router = unanswered
        with door.client(keys) as client:
            assert client.handshake()[0] == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


def test_socket_made_anew_is_guarded_too(door: Door, keys: Keys) -> None:
    door.router.close()
    door.router = door.bound()
    with door.client(keys) as client, door.client(zmq.curve_keypair()) as stranger:
        assert client.user() == keys[0].decode()
        assert stranger.handshake() == (zmq.EVENT_HANDSHAKE_FAILED_AUTH, 400)


def test_malformed_file_on_reload_lets_nobody_in_and_nobody_down(door: Door, keys: Keys) -> None:
    other, stays = zmq.curve_keypair()[0], door.allowed / "client.key"
    door.allow("other", other)
    (door.allowed / "other.key").write_bytes(other[:39])
    assert door.curve.reload() == [f"{door.allowed}/other.key holds no CURVE key: want one line of 40 Z85 characters"]
    assert door.curve.permits(keys[0].decode()) and stays.exists()
    assert not door.curve.permits(other.decode())


def test_folder_that_cannot_be_listed_on_reload_changes_nothing(door: Door, keys: Keys, tmp_path: Path) -> None:
    door.allowed.rename(tmp_path / "moved")
    assert door.curve.reload() == [f"cannot read the folder {door.allowed}: No such file or directory"]
    assert door.curve.permits(keys[0].decode())


def test_only_visible_key_files_are_read(door: Door, keys: Keys) -> None:
    for name in (".#client.key", "client.key~", "README", "server.key_secret"):
        (door.allowed / name).write_text("no key")
    assert door.curve.reload() == []
    assert door.curve.permits(keys[0].decode())


@pytest.mark.parametrize("name", ["server.key_secret", "authorized_clients", "authorized_clients/client.key"])
def test_start_is_refused_in_one_sentence(door: Door, keys: Keys, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.rename(tmp_path / "moved")
    if name.endswith(".key"):
        path.mkdir()
    with pytest.raises(KeyFileError, match=rf"^cannot read (the folder )?{path}: \w[\w ]+$"):
        CurveServer.read(secret_key_file=tmp_path / "server.key_secret", authorized_clients=door.allowed)


def test_crowd_at_the_door_is_answered_over_several_turns(door: Door, context: zmq.SyncContext) -> None:
    with context.socket(zmq.DEALER) as crowd:
        crowd.connect(ZAP_ENDPOINT)
        for _ in range(HANDSHAKES_MAX + 1):
            crowd.send_multipart([b"", *REQUEST])
        replies = (answered(door, crowd), answered(door, crowd), answered(door, crowd))
    assert replies == (HANDSHAKES_MAX, 1, 0)


def answered(door: Door, crowd: zmq.SyncSocket) -> int:
    """How many replies one `handle` gave."""
    door.curve.handle()
    count = 0
    while crowd.poll(0):
        crowd.recv_multipart()
        count += 1
    return count


def test_key_is_named_to_the_server_when_it_is_let_in() -> None:
    assert zap_reply(REQUEST, lambda user: user == USER) == [b"1.0", b"7", b"200", b"OK", USER.encode(), b""]


def test_key_that_is_not_permitted_gets_no_name() -> None:
    assert zap_reply(REQUEST, lambda _: False) == [b"1.0", b"7", b"400", b"this key is not allowed", b"", b""]


def changed(place: int, value: bytes) -> list[bytes]:
    return [value if index == place else frame for index, frame in enumerate(REQUEST)]


@pytest.mark.parametrize(
    "frames",
    [
        changed(0, b"1.1"),
        changed(2, b"global"),
        changed(2, b""),
        changed(2, b"*"),
        changed(5, b"NULL"),
        changed(5, b"PLAIN"),
        changed(5, b"curve"),
        changed(6, KEY[:31]),
        changed(6, KEY + b"\0"),
        changed(6, USER.encode()),
        REQUEST[:6],
        [*REQUEST, b""],
    ],
)
def test_only_a_curve_request_of_our_domain_is_looked_at(frames: list[bytes]) -> None:
    assert zap_reply(frames, lambda _: True) == [b"1.0", b"7", b"400", b"no CURVE request of this domain", b"", b""]


@given(st.lists(st.sampled_from(REQUEST) | st.binary(max_size=40), max_size=9), st.booleans())
def test_no_frames_break_the_answer(frames: list[bytes], permitted: bool) -> None:
    answer = zap_reply(frames, lambda _: permitted)
    assert len(answer) == 6 and answer[0] == b"1.0" and answer[2] in (b"200", b"400")
    assert answer[1] == (frames[1] if len(frames) > 1 else b"")


@given(st.lists(st.sampled_from(range(7)), max_size=3), st.binary(max_size=33))
def test_changed_request_is_let_in_only_if_it_still_says_the_same(places: list[int], value: bytes) -> None:
    frames = [value if index in places else frame for index, frame in enumerate(REQUEST)]
    same = all(frames[place] == REQUEST[place] for place in (0, 2, 5)) and len(frames[6]) == 32
    assert (zap_reply(frames, lambda _: True)[2] == b"200") == same

"""Clients of a server that lets in only those it knows."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from narsil_client import AsyncClient, Client, Curve, HandshakeRefused
from narsil_transport.curve import CurveServer
from narsil_transport.keys import write_key_pair
from tests.client.fake_server import DENSE, IDS, FakeServer, scored
from tests.client.test_aio import SUMS, run


@dataclass(frozen=True)
class Keys:
    """A server's and a client's, in a folder; no client is allowed yet."""

    folder: Path
    allowed: Path
    server: str

    def security(self) -> CurveServer:
        return CurveServer.read(secret_key_file=self.folder / "server.key_secret", authorized_clients=self.allowed)

    def allow(self) -> None:
        (self.allowed / "client.key").write_bytes((self.folder / "client.key").read_bytes())

    @property
    def curve(self) -> Curve:
        return Curve(server_key=self.server, secret_key_file=self.folder / "client.key_secret")


def client_of(server: FakeServer, curve: Curve | None) -> Client:
    """One whose requests do not time out here."""
    return Client(server.endpoint, curve=curve, timeout_s=1000)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    server = write_key_pair(tmp_path, "server").decode()
    write_key_pair(tmp_path, "client")
    return Keys(tmp_path, allowed, server)


def test_a_known_client_is_served(keys: Keys) -> None:
    keys.allow()
    with FakeServer(scored, security=keys.security()) as server, Client(server.endpoint, curve=keys.curve) as client:
        assert client.predict(dense=DENSE, ids=IDS).scores.tolist() == SUMS


def test_an_unknown_client_is_refused_at_once_and_again(keys: Keys) -> None:
    with FakeServer(scored, security=keys.security()) as server, client_of(server, keys.curve) as client:
        for _ in range(2):
            with pytest.raises(HandshakeRefused, match=r"does not take this client's key \(400\)"):
                client.predict(dense=DENSE, ids=IDS)


def test_a_client_that_is_let_in_later_is_served_by_then(keys: Keys) -> None:
    security = keys.security()
    with (
        FakeServer(scored, security=security) as server,
        Client(server.endpoint, curve=keys.curve) as client,
        pytest.raises(HandshakeRefused),
    ):
        client.predict(dense=DENSE, ids=IDS)
        keys.allow()
        security.reload()
        while True:
            try:
                assert client.predict(dense=DENSE, ids=IDS).scores.tolist() == SUMS
                return
            except HandshakeRefused:  # until it is asked again
                pass


def test_asyncio_a_client_is_refused_then_let_in(keys: Keys) -> None:
    security = keys.security()

    async def main() -> None:
        async with AsyncClient(server.endpoint, curve=keys.curve, timeout_s=1000) as client:
            with pytest.raises(HandshakeRefused):
                await client.predict(dense=DENSE, ids=IDS)
            keys.allow()
            security.reload()
            while True:
                try:
                    assert (await client.predict(dense=DENSE, ids=IDS)).scores.tolist() == SUMS
                    return
                except HandshakeRefused:
                    pass

    with FakeServer(scored, security=security) as server:
        run(main())


def test_a_wrong_server_key_is_a_refused_handshake(keys: Keys) -> None:
    keys.allow()
    other = write_key_pair(keys.folder, "other").decode()
    curve = Curve(server_key=other, secret_key_file=keys.folder / "client.key_secret")
    with (
        FakeServer(scored, security=keys.security()) as server,
        client_of(server, curve) as client,
        pytest.raises(HandshakeRefused, match="wrong server key"),
    ):
        client.predict(dense=DENSE, ids=IDS)


def test_a_client_without_keys_is_refused_by_a_server_with_some(keys: Keys) -> None:
    with (
        FakeServer(scored, security=keys.security()) as server,
        client_of(server, None) as client,
        pytest.raises(HandshakeRefused),
    ):
        client.predict(dense=DENSE, ids=IDS)


def test_a_client_with_keys_does_not_talk_to_a_server_without(keys: Keys) -> None:
    with FakeServer(scored) as server, client_of(server, keys.curve) as client, pytest.raises(HandshakeRefused):
        client.predict(dense=DENSE, ids=IDS)


def test_a_server_that_knows_the_client_serves_while_another_refuses_it(keys: Keys) -> None:
    refusing = keys.security()
    keys.allow()
    with (
        FakeServer(scored, security=refusing) as one,
        FakeServer(scored, security=keys.security()) as two,
        Client(one.endpoint, two.endpoint, curve=keys.curve) as client,
    ):
        for _ in range(4):
            assert client.predict(dense=DENSE, ids=IDS).scores.tolist() == SUMS


def test_a_secret_key_that_others_can_read_is_not_used(keys: Keys) -> None:
    (keys.folder / "client.key_secret").chmod(0o644)
    with pytest.raises(ValueError, match="open to others"):
        Client("tcp://127.0.0.1:1", curve=keys.curve).open()


@pytest.mark.parametrize("key", ["", "a" * 39, "~" * 40, "a" * 45, "é" * 40])
def test_a_server_key_is_a_key(key: str) -> None:
    with pytest.raises(ValueError, match="40 Z85 characters"):
        Curve(server_key=key, secret_key_file="client.key_secret")


def test_no_secret_is_shown(keys: Keys) -> None:
    secret = (keys.folder / "client.key_secret").read_text().splitlines()[-1]
    assert secret not in repr(keys.curve.read())

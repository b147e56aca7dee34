"""Keys of a server and of its client."""

from pathlib import Path

from narsil_transport.keys import read_public_key, read_secret_key, write_key_pair
from tests.serving.peers import Peer


class Keys:
    """A folder with a server's and a client's keys, the client among the allowed."""

    def __init__(self, folder: Path) -> None:
        self.allowed = folder / "allowed"
        self.allowed.mkdir()
        write_key_pair(folder, "server")
        write_key_pair(folder, "client")
        self._folder = folder
        self.server_key = read_public_key(folder / "server.key").decode()
        self.client_secret = folder / "client.key_secret"
        (self.allowed / "client.key").write_bytes((folder / "client.key").read_bytes())

    @property
    def arguments(self) -> tuple[object, ...]:
        """The server's."""
        return ("--curve-secret-key", self._folder / "server.key_secret", "--authorized-clients", self.allowed)

    @property
    def client_arguments(self) -> list[str]:
        """Of a command that asks it."""
        return ["--curve-server-key", self.server_key, "--curve-secret-key", str(self.client_secret)]

    def revoke(self) -> None:
        (self.allowed / "client.key").unlink()

    def peer(self, endpoint: str) -> Peer:
        peer = Peer("inproc://not-yet")
        peer.socket.disconnect("inproc://not-yet")
        peer.socket.curve_publickey, peer.socket.curve_secretkey = read_secret_key(self.client_secret)
        peer.socket.curve_serverkey = self.server_key.encode()
        peer.socket.connect(endpoint)
        return peer

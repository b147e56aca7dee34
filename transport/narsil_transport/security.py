"""What the router asks of whoever decides who may connect."""

from typing import Protocol

import zmq


class Security(Protocol):
    """Put on a socket by `apply`; its `zap_socket`, where it then hears of each handshake, is the router's to watch.

    `permits` says whether a connected user is still allowed; `reload` reads anew who is, and says in a sentence each
    what it could not read.
    """

    @property
    def zap_socket(self) -> zmq.SyncSocket: ...

    def apply(self, socket: zmq.SyncSocket, context: zmq.SyncContext) -> None: ...

    def handle(self) -> None: ...

    def permits(self, user_id: str) -> bool: ...

    def reload(self) -> list[str]: ...

    def close(self) -> None: ...

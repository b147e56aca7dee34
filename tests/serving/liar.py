"""A server that lies: it stands before a real one and changes what passes."""

from collections.abc import Callable, Sequence
from threading import Thread

import zmq

Frames = Sequence[bytes]
Change = Callable[[Frames], Sequence[Frames]]


class Liar:
    """Serves for a `with` block. `change` makes of each reply, without delimiter, the replies that are sent instead."""

    def __init__(self, endpoint: str, change: Change) -> None:
        self._server = endpoint
        self._change = change
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        self.endpoint = f"tcp://127.0.0.1:{self._router.bind_to_random_port('tcp://127.0.0.1')}"
        self._behind: dict[bytes, zmq.SyncSocket] = {}
        self._ending = False
        self._thread = Thread(target=self._run)

    def __enter__(self) -> "Liar":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ending = True
        self._thread.join()
        self._context.destroy()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        while not self._ending:
            for socket, _ in poller.poll(10):
                if socket is self._router:
                    identity, *frames = self._router.recv_multipart()
                    behind = self._behind.get(identity)
                    if behind is None:
                        behind = self._behind[identity] = self._context.socket(zmq.DEALER)
                        behind.linger = 0
                        behind.connect(self._server)
                        poller.register(behind, zmq.POLLIN)
                    behind.send_multipart(frames)

            for identity, behind in self._behind.items():
                while behind.poll(0):
                    frames = behind.recv_multipart()
                    delimiter = [b""] if not frames[0] else []
                    for reply in self._change(frames[len(delimiter) :]):
                        self._router.send_multipart([identity, *delimiter, *reply])

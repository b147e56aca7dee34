"""Where the tensors of calls travel: in a segment of shared memory where their server offers that, else in frames."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from narsil_client.call import Call
from narsil_client.shm import Segment, create_segment
from narsil_transport.messages import (
    AttachReply,
    ControlRequest,
    HealthReply,
    MetadataReply,
    Operation,
    RefusalReply,
    ScoresReply,
)
from narsil_transport.wire import encode_attach, encode_request

# The session numbers its requests from 1: these never meet.
_FIRST_ID = 2**63
# A page: less is not given out.
SHM_BYTES_MIN = 4096

Reply = ScoresReply | RefusalReply | HealthReply | MetadataReply | AttachReply


@dataclass(slots=True)
class _Connection:
    """What is agreed with one server: it was asked `question_id`, and knows `segment` by its `number`, if not 0."""

    question_id: int
    segment: Segment | None = None
    number: int = 0


class Payloads:
    """A segment of `shm_bytes` for each connection of a client whose server offers that; 0 asks none.

    Free of sockets: `outbox` holds what is to be sent, (server, message). Whatever goes wrong, frames do as well.
    """

    def __init__(self, endpoints: Sequence[str], shm_bytes: int) -> None:
        if shm_bytes and shm_bytes < SHM_BYTES_MIN:
            raise ValueError(f"want shm_bytes of 0 or at least {SHM_BYTES_MIN}, got {shm_bytes}")
        # Whether any server may offer it: one on the same machine.
        self.used = shm_bytes > 0 and any(map(_is_local, endpoints))
        self.outbox: deque[tuple[int, list[bytes]]] = deque()
        self._endpoints = endpoints
        self._shm_bytes = shm_bytes
        self._connections: dict[int, _Connection] = {}
        self._ids = count(_FIRST_ID)

    def up(self, index: int) -> None:
        """A new connection to this server: ask what it offers."""
        if self._shm_bytes and _is_local(self._endpoints[index]):
            connection = self._connections[index] = _Connection(next(self._ids))
            question = ControlRequest(connection.question_id, Operation.METADATA)
            self.outbox.append((index, encode_request(question)))

    def down(self, index: int) -> None:
        """The connection has ended, or offers nothing. What lies in its segment stays for whoever is yet to read it."""
        connection = self._connections.pop(index, None)
        if connection is not None and connection.segment is not None:
            connection.segment.unlink()

    def drop(self, segment: Segment) -> None:
        """The server has let go of this segment, as one with many clients does: no more of it until it reconnects."""
        for index, connection in [*self._connections.items()]:
            if connection.segment is segment:
                self.down(index)

    def receive(self, index: int, reply: Reply) -> bool:
        """Whether this is the server's reply to a question of ours."""
        connection = self._connections.get(index)
        if connection is None or reply.request_id != connection.question_id:
            return False
        segment = connection.segment
        if isinstance(reply, MetadataReply) and segment is None and reply.meta.get("shm") is True:
            self._attach(index, connection)
        elif isinstance(reply, AttachReply) and segment is not None:
            segment.unlink()
            connection.number = reply.segment
        else:
            self.down(index)
        return True

    def message(self, call: Call[Any]) -> Sequence[bytes]:
        """What to send to the call's server, its tensors copied."""
        if call.request is None:
            return call.frames
        connection = self._connections.get(call.server)
        if connection is not None and connection.segment is not None and connection.number:
            call.loan = connection.segment.write(call.request, connection.number)
            if call.loan is not None:
                call.request = call.loan.request
                return [call.loan.header]
        call.recall()
        return call.frames

    def close(self) -> None:
        """Every connection has ended."""
        for index in [*self._connections]:
            self.down(index)
        self.outbox.clear()

    def _attach(self, index: int, connection: _Connection) -> None:
        try:
            connection.segment = create_segment(self._shm_bytes)
        except OSError:  # no room there, or no such folder on this system
            self.down(index)
            return
        connection.question_id = next(self._ids)
        request = connection.segment.attach_request(connection.question_id)
        self.outbox.append((index, [encode_attach(request)]))


def _is_local(endpoint: str) -> bool:
    return endpoint.startswith("ipc:")

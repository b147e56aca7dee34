"""What a request can fail with: always a NarsilError. Arguments that cannot be sent are a plain ValueError."""

from collections.abc import Mapping

from narsil_transport.status import Refusal, Status


class NarsilError(Exception):
    """Any failure of a request."""


class ServerUnreachable(NarsilError, ConnectionError):
    """The endpoint is malformed, or no server there took the request in time. It was never sent, but for ServerLost."""


class HandshakeRefused(ServerUnreachable):
    """The server refused the connection: this client's key is not authorized, or the two do not agree on security."""


class ServerLost(ServerUnreachable):
    """The request was sent and its server has gone, and no other answered in its place. It may have done the work."""


class RequestTimeout(NarsilError, TimeoutError):
    """The request was sent and no answer came in time. The server is told to drop it, but may have done the work."""


class ClientClosed(NarsilError):
    """The client is not open, or was closed while the request was in flight."""


class Refused(NarsilError):
    """The server's typed refusal. `detail` is its one sentence; `retry_after_us` is set where waiting may help.

    `predicted_us` is when the scores would have come, counted from receipt, where the server says so.
    """

    def __init__(
        self, status: Status, detail: str, retry_after_us: int | None = None, predicted_us: int | None = None
    ) -> None:
        # All four go to args, so that the exception survives pickling between processes.
        super().__init__(status, detail, retry_after_us, predicted_us)
        self.status = status
        self.detail = detail
        self.retry_after_us = retry_after_us
        self.predicted_us = predicted_us

    def __str__(self) -> str:
        return f"{self.status.name}: {self.detail}"


class InvalidRequest(Refused, ValueError):
    """The shapes, dtypes or header are not what the server serves."""


class Unsupported(Refused):
    """The server does not speak this protocol version or operation."""


class UnknownModel(Refused):
    """The server has no model of this name."""


class TooLarge(Refused):
    """More rows, more ids in one row or by a user's part, or more bytes in shared memory, than the server takes."""


class OutOfRange(Refused):
    """An id is not in its table; the detail names the feature, the row and the value."""


class NotFinite(Refused):
    """A dense value is NaN or infinite."""


class DeadlineExceeded(Refused):
    """The deadline passed in the queue, or as WouldMiss it would have."""


class WouldMiss(DeadlineExceeded):
    """Refused at once: by measured costs the scores would have come too late, at `predicted_us`."""


class Overloaded(Refused):
    """The queue or the window of this client is full, or the server is short of memory."""


class Draining(Refused):
    """The server is stopping and takes no new work."""


class Unavailable(Refused):
    """The server cannot score now."""


class Cancelled(Refused):
    """The request was cancelled before it was launched."""


class Unauthorized(Refused):
    """The server no longer serves this client's key."""


class ServerError(Refused):
    """The server failed."""


_CLASSES: Mapping[Status, type[Refused]] = {
    Status.INVALID: InvalidRequest,
    Status.UNSUPPORTED: Unsupported,
    Status.UNKNOWN_MODEL: UnknownModel,
    Status.TOO_LARGE: TooLarge,
    Status.OUT_OF_RANGE: OutOfRange,
    Status.NOT_FINITE: NotFinite,
    Status.DEADLINE_EXCEEDED: DeadlineExceeded,
    Status.WOULD_MISS: WouldMiss,
    Status.OVERLOADED: Overloaded,
    Status.DRAINING: Draining,
    Status.UNAVAILABLE: Unavailable,
    Status.INTERNAL: ServerError,
    Status.CANCELLED: Cancelled,
    Status.UNAUTHORIZED: Unauthorized,
}


def refused(refusal: Refusal) -> Refused:
    """The exception for a refusal: its status' own class."""
    kind = _CLASSES[refusal.status]
    return kind(refusal.status, refusal.detail, refusal.retry_after_us, refusal.predicted_us)


def unreachable(servers: str) -> ServerUnreachable:
    """For a request that no server took."""
    return ServerUnreachable(f"no server took the request in time: {servers}")


def no_room(inflight: int) -> RequestTimeout:
    """For a request that found the window full until its time was up."""
    return RequestTimeout(f"{inflight} requests stayed in flight and the window had no room for this one")


def not_yet(timeout_s: float | None) -> RequestTimeout:
    """For a wait that was shorter than its request's own time-out."""
    return RequestTimeout(f"no answer in {timeout_s} s; the request is still in flight")


def not_open() -> ClientClosed:
    """For a client used before `open` or after `close`."""
    return ClientClosed("the client is not open: use it in a with block, or call open()")

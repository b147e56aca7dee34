"""One request of a client, from `begin` until it is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from narsil_client.errors import NarsilError
from narsil_client.shm import Loan, Segment
from narsil_transport.messages import HealthReply, InferRequest, MetadataReply, ScoresReply
from narsil_transport.wire import encode_cancel, encode_request

ReplyT = TypeVar("ReplyT", ScoresReply, HealthReply, MetadataReply)


@dataclass(slots=True, eq=False)
class Call(Generic[ReplyT]):
    """When it is done it has exactly one of `reply` and `error`.

    `server` is where it was sent, -1 while it waits to be. `setback` is why its first server did not answer it: what it
    fails with if no second one does. That one is any but `avoid`, if it is to be sent before `retry_by_ns`.
    Until its `frames` are made there is a `request`, whose tensors may lie in shared memory, by `loan`. `doubt` is the
    segment that its first server may have been unable to read.
    """

    request_id: int
    expects: type[ReplyT]
    rows: int
    frames: Sequence[bytes]
    begun_ns: int
    expires_ns: int
    retry_by_ns: int
    server: int = -1
    avoid: int = -1
    request: InferRequest | None = None
    loan: Loan | None = None
    doubt: Segment | None = None
    setback: NarsilError | None = None
    cancelled: bool = False
    finished_ns: int = 0
    reply: ReplyT | None = None
    error: NarsilError | None = None

    @property
    def done(self) -> bool:
        """Whether there is an answer, good or bad."""
        return self.reply is not None or self.error is not None

    @property
    def scores(self) -> bool:
        """Whether it asks for scores: only then it fills a place in its server's window, and can be cancelled."""
        return self.expects is ScoresReply

    def recall(self) -> None:
        """Make its frames, of the tensors wherever they lie."""
        if self.request is not None:
            self.frames, self.request = encode_request(self.request), None
        self.settle()

    def settle(self) -> None:
        """Give its place in shared memory back."""
        if self.loan is not None:
            self.loan.end()
            self.loan = None

    def answer(self) -> ReplyT:
        """The reply of a call that is done. Raises its NarsilError if it failed."""
        if self.error is not None:
            raise self.error
        assert self.reply is not None, "the call is not done"
        return self.reply


def cancel_of(call: Call[Any]) -> list[bytes]:
    """The message, CANCEL, for the server that has the call; empty where none has, or there is nothing to cancel.

    A call that is not done stays in flight, for the one reply that it still gets.
    """
    return [encode_cancel(call.request_id)] if call.server >= 0 and call.scores else []

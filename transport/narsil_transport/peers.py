"""Who is owed what: each peer's unanswered requests, and the replies that its full pipe did not take. Pure."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from narsil_transport.tensors import Frame

# Requests that one client may leave unanswered, where the server's owner says nothing else.
WINDOW = 256
# The scores of a whole default window, of 4096 rows each.
OUTBOX_BYTES_MAX = 4 << 20
OUTBOXES_BYTES_MAX = 64 << 20
# What Python needs for a reply beside its bytes.
REPLY_OVERHEAD_BYTES = 512
# A full pipe is tried again so often, and so many in one turn: about 20 us, however many peers do not read.
RETRY_NS = 5_000_000
RETRIES_MAX = 16


@dataclass(slots=True, eq=False)
class Outbox:
    """The frames of replies that wait for one peer, oldest first, the delimiter of a REQ among them."""

    replies: deque[Sequence[Frame]] = field(default_factory=deque[Sequence[Frame]])
    bytes: int = 0


class Peers:
    """The windows and outboxes of the peers that have either; of all others nothing is kept.

    A peer may have `window` requests unanswered. As many replies wait for it, of `outbox_bytes_max` bytes together and
    `outboxes_bytes_max` over all peers. One whose outbox was full is slow, and in `slow` until it has read it all: its
    requests are not even looked at, as there is no room for any answer. Peers that have left gather in `gone` until
    `take_gone`. No peer that keeps its window is ever slow: its pipe holds that many replies.
    """

    __slots__ = (
        "_bytes",
        "_bytes_max",
        "_outbox_bytes_max",
        "_outboxes",
        "_retry_ns",
        "_unanswered",
        "dropped_replies",
        "gone",
        "refused_by_window",
        "slow",
        "slowed",
        "unserved",
        "window",
    )

    def __init__(
        self, *, window: int, outbox_bytes_max: int = OUTBOX_BYTES_MAX, outboxes_bytes_max: int = OUTBOXES_BYTES_MAX
    ) -> None:
        if window < 1:
            raise ValueError(f"want a window of at least 1, got {window}")
        self.window = window
        self.gone: set[bytes] = set()
        self.slow: set[bytes] = set()
        self.dropped_replies = 0
        self.refused_by_window = 0
        self.slowed = 0
        self.unserved = 0
        self._unanswered: dict[bytes, int] = {}
        self._outboxes: dict[bytes, Outbox] = {}
        self._outbox_bytes_max = outbox_bytes_max
        self._bytes_max = outboxes_bytes_max
        self._bytes = 0
        self._retry_ns = 0

    @property
    def waiting(self) -> bool:
        """Whether any outbox holds a reply."""
        return bool(self._outboxes)

    def enter(self, identity: bytes) -> bool:
        """A request has come. False, and counted, where this peer's window is full; else it wants a `left`."""
        count = self._unanswered.get(identity, 0)
        if count >= self.window:
            self.refused_by_window += 1
            return False
        self._unanswered[identity] = count + 1
        return True

    def left(self, identity: bytes) -> None:
        """A request that had entered has its reply. Of a peer that was forgotten since, there is nothing to count."""
        count = self._unanswered.get(identity, 0)
        if count > 1:
            self._unanswered[identity] = count - 1
        elif count:
            del self._unanswered[identity]

    def waits(self, identity: bytes) -> bool:
        """Whether this peer's next reply has others before it."""
        return identity in self._outboxes

    def keep(self, identity: bytes, frames: Sequence[Frame]) -> bool:
        """Put a reply behind those that wait. False, and counted, where it is dropped because there is no room."""
        size = REPLY_OVERHEAD_BYTES + sum(map(len, frames))
        outbox = self._outboxes.get(identity)
        used, count = (0, 0) if outbox is None else (outbox.bytes, len(outbox.replies))
        full = count >= self.window or used + size > self._outbox_bytes_max or self._bytes + size > self._bytes_max
        if full:
            self.dropped_replies += 1
            # One with nothing in its outbox could never be seen to have read it all.
            if outbox is not None and identity not in self.slow:
                self.slow.add(identity)
                self.slowed += 1
            return False
        if outbox is None:
            outbox = self._outboxes[identity] = Outbox()
        outbox.replies.append(frames)
        outbox.bytes += size
        self._bytes += size
        return True

    def due(self, now_ns: int) -> list[bytes]:
        """The peers whose outbox is to be tried now: a few, in turns, and each time RETRY_NS later."""
        if now_ns < self._retry_ns:
            return []
        self._retry_ns = now_ns + RETRY_NS
        chosen = list(islice(self._outboxes, RETRIES_MAX))
        for identity in chosen:
            self._outboxes[identity] = self._outboxes.pop(identity)
        return chosen

    def oldest(self, identity: bytes) -> Sequence[Frame] | None:
        """The reply to send next, or None where none waits."""
        outbox = self._outboxes.get(identity)
        return None if outbox is None else outbox.replies[0]

    def sent(self, identity: bytes) -> None:
        """The oldest reply has been taken; with the last one, a slow peer is served again."""
        outbox = self._outboxes[identity]
        size = REPLY_OVERHEAD_BYTES + sum(map(len, outbox.replies.popleft()))
        outbox.bytes -= size
        self._bytes -= size
        if not outbox.replies:
            del self._outboxes[identity]
            self.slow.discard(identity)

    def forget(self, identity: bytes) -> None:
        """The peer has left: nothing is owed to it any more."""
        outbox = self._outboxes.pop(identity, None)
        if outbox is not None:
            self.dropped_replies += len(outbox.replies)
            self._bytes -= outbox.bytes
        self._unanswered.pop(identity, None)
        self.slow.discard(identity)
        self.gone.add(identity)

    def take_gone(self) -> set[bytes]:
        """Those that have left since the last call."""
        gone, self.gone = self.gone, set()
        return gone

"""Which server gets a call: connections, windows and back-off, with no socket and no clock."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from narsil_transport.messages import WINDOW_START

FAR_NS = 2**63 - 1
# A server whose handshake failed is asked again after 50 ms, then after twice as long each time, up to 5 s.
RETRY_NS, RETRY_MAX_NS = 50_000_000, 5_000_000_000
# Handshakes that fail without a reason may be a server that was going down; so many in a row are its answer.
FAILURES_MAX = 3
# A server that takes no work is passed over for this long while another does.
SHUN_NS = 1_000_000_000
# More than any server's load.
_SHUNNED = 1 << 32
# An abandoned request fills its place at the server until it is answered. By then its answer was dropped on the way.
ABANDONED_NS = 1_000_000_000


@dataclass(slots=True)
class Server:
    """One endpoint. `unanswered` are the ids that count against its window, `abandoned` those that nobody waits for.

    It is connected, connecting, or waits for `retry_ns` to be asked again. `hitch` is why the last handshake failed,
    `refusal` the same where the server meant it.
    """

    endpoint: str
    connected: bool = False
    blocked: bool = False
    window: int = WINDOW_START
    unanswered: set[int] = field(default_factory=set[int])
    abandoned: dict[int, int] = field(default_factory=dict[int, int])
    shunned_ns: int = 0
    hitch: str = ""
    refusal: str = ""
    failures: int = 0
    retry_ns: int = FAR_NS

    def room(self, now_ns: int) -> bool:
        """Whether it takes another request for scores."""
        while len(self.unanswered) >= self.window:
            oldest = next(iter(self.abandoned), None)
            if oldest is None or self.abandoned[oldest] > now_ns:
                return False
            self.answered(oldest)
        return True

    def answered(self, request_id: int) -> None:
        """The request no longer counts."""
        self.unanswered.discard(request_id)
        if self.abandoned:
            self.abandoned.pop(request_id, None)

    def abandon(self, request_id: int, now_ns: int) -> None:
        """Nobody waits for this request any more."""
        if request_id in self.unanswered:
            self.abandoned[request_id] = now_ns + ABANDONED_NS

    @property
    def refused(self) -> bool:
        """Whether the last handshake was refused for good, until it is asked again."""
        return self.retry_ns != FAR_NS and bool(self.refusal)


class Fleet:
    """The servers of one client, told of their connections, and asked who is next.

    To a client with keys (`keyed`) a server that hangs up time and again has answered; to one without, it is full.
    """

    def __init__(self, endpoints: Sequence[str], *, keyed: bool) -> None:
        self.endpoints = endpoints
        self._keyed = keyed
        self._turn = 0
        self.reset()

    def reset(self) -> None:
        """As it is before anything connects."""
        self.servers = [Server(endpoint) for endpoint in self.endpoints]
        # When the first server is to be asked again.
        self.retry_ns = FAR_NS

    def choose(self, *, counts: bool, avoid: int, now_ns: int) -> int:
        """The connected server with the least unanswered that has room, in turn where they are equal; -1 for none.

        A request that does not count against windows (`counts` false) goes to the next in turn, whatever its load.
        """
        servers = self.servers
        best, best_load = -1, FAR_NS
        for step in range(len(servers)):
            index = (self._turn + step) % len(servers)
            server = servers[index]
            if not server.connected or server.blocked or index == avoid:
                continue
            if not counts:
                best = index
                break
            load = len(server.unanswered)
            if server.shunned_ns > now_ns:
                load += _SHUNNED
            if load < best_load and server.room(now_ns):
                best, best_load = index, load
        if best >= 0:
            self._turn = (best + 1) % len(servers)
        return best

    def connected(self, avoid: int = -1) -> bool:
        """Whether any server is, apart from `avoid`."""
        return any(server.connected and index != avoid for index, server in enumerate(self.servers))

    @property
    def refusals(self) -> str:
        """Where every server has refused the handshake: what they said. Otherwise empty."""
        return self.last_refusals if all(server.refused for server in self.servers) else ""

    @property
    def last_refusals(self) -> str:
        """What servers said that refused the handshake when last asked; empty if none did."""
        return ", ".join(f"{server.endpoint}: {server.refusal}" for server in self.servers if server.refusal)

    @property
    def hitches(self) -> str:
        """The servers, each with why its last handshake failed if that is known."""
        return ", ".join(server.endpoint + (server.hitch and f" ({server.hitch})") for server in self.servers)

    @property
    def wake_ns(self) -> int:
        """When a call that waits for a server should be tried again even if nothing comes."""
        times = [next(iter(server.abandoned.values()), FAR_NS) for server in self.servers]
        return min(self.retry_ns, *times)

    def up(self, index: int) -> None:
        """The handshake succeeded: a new peer to that server, which has asked it nothing yet."""
        server = self.servers[index]
        self._forget(server)
        server.connected, server.hitch, server.refusal, server.failures = True, "", "", 0
        self._retry(server, FAR_NS)

    def down(self, index: int, now_ns: int) -> None:
        """The connection ended. After a failed handshake that says nothing new."""
        server = self.servers[index]
        if server.connected:
            self._forget(server)
            self._retry(server, now_ns + RETRY_NS)
        elif server.retry_ns == FAR_NS:
            self.refused(index, "it hung up before the handshake", now_ns, final=False)

    def refused(self, index: int, reason: str, now_ns: int, *, final: bool) -> None:
        """The handshake failed; `final` where the server said so, rather than just hung up."""
        server = self.servers[index]
        self._forget(server)
        server.failures += 1
        server.hitch = reason
        if final or (self._keyed and server.failures >= FAILURES_MAX):
            server.refusal = reason
        # The shift is bounded too: a server may fail for days.
        wait_ns = min(RETRY_NS << min(server.failures - 1, 10), RETRY_MAX_NS)
        self._retry(server, now_ns + wait_ns)

    def shun(self, index: int, now_ns: int) -> None:
        """This server takes no work now."""
        self.servers[index].shunned_ns = now_ns + SHUN_NS

    def due(self, now_ns: int) -> list[int]:
        """The servers to be asked again now; from here on they are connecting."""
        if now_ns < self.retry_ns:
            return []
        found = [index for index, server in enumerate(self.servers) if server.retry_ns <= now_ns]
        for index in found:
            self._retry(self.servers[index], FAR_NS)
        return found

    def _forget(self, server: Server) -> None:
        server.connected = server.blocked = False
        server.window, server.shunned_ns = WINDOW_START, 0
        server.unanswered.clear()
        server.abandoned.clear()

    def _retry(self, server: Server, retry_ns: int) -> None:
        server.retry_ns = retry_ns
        self.retry_ns = min(each.retry_ns for each in self.servers)

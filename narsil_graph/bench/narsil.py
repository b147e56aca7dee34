"""Our own server as a `Subject`: raw messages, for a client that costs as little as can be."""

import select
from collections import deque
from collections.abc import Sequence
from time import monotonic_ns

from narsil_client import Client, NarsilError
from narsil_client.curve import Curve, CurveKeys
from narsil_client.dealer import Dealer, connect
from narsil_graph.bench.subject import OK, TIMEOUT, Done, Rows
from narsil_graph.errors import UsageFailure
from narsil_graph.model.spec import ModelSpec
from narsil_transport.messages import WINDOW_START, InferRequest, Priority, RefusalReply, ScoresReply
from narsil_transport.wire import WireError, decode_reply, encode_cancel, encode_request

CONNECT_S = 5.0
# Each takes eight file descriptors, and select knows 1,024 of them.
CONNECTIONS_MAX = 100


class _Server:
    """One connection, and what it may still leave unanswered."""

    __slots__ = ("dealer", "in_flight", "window")

    def __init__(self, dealer: Dealer) -> None:
        self.dealer = dealer
        self.in_flight = 0
        self.window = WINDOW_START


class NarsilSubject:
    """A connection per endpoint; each request goes to the one with the fewest unanswered that takes it.

    At most `inflight_max` requests are under way, at each server no more than it grants. One that is unanswered after
    `timeout_s` ends as TIMEOUT and is cancelled. Of connections that break it knows nothing else. A `deadline_us` is
    every request's budget, whatever was recorded.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        inflight_max: int,
        *,
        timeout_s: float,
        deadline_us: int | None,
        keys: CurveKeys | None,
    ) -> None:
        self._inflight_max = inflight_max
        self._timeout_ns = int(timeout_s * 1e9)
        self._deadline_us = deadline_us
        self._servers: list[_Server] = []
        # By a request's id, which is not its number: an answer that comes too late must not be that of another load.
        self._under_way: dict[int, tuple[int, _Server]] = {}
        self._expiries: deque[tuple[int, int]] = deque()
        self._last_id = 0
        try:
            for endpoint in endpoints:
                server = _Server(connect([endpoint], inflight_max=inflight_max, context=None, keys=keys))
                self._servers.append(server)
            # Now rather than in a measurement, whose first requests would go to those that are there.
            for endpoint, server in zip(endpoints, self._servers, strict=True):
                if not server.dealer.wait_writable(int(CONNECT_S * 1000)):
                    raise UsageFailure(f"{endpoint}: no connection in {CONNECT_S:g} s")
        except BaseException:
            self.close()
            raise

    def submit(self, number: int, rows: Rows) -> bool:
        if len(self._under_way) >= self._inflight_max:
            return False
        frames: list[bytes] = []
        for server in sorted(self._servers, key=_unanswered):
            if server.in_flight < server.window:
                frames = frames or self._encoded(rows)
                if server.dealer.send(frames):
                    self._last_id += 1
                    server.in_flight += 1
                    self._under_way[self._last_id] = number, server
                    self._expiries.append((monotonic_ns() + self._timeout_ns, self._last_id))
                    return True
        return False

    def poll(self, timeout_s: float) -> list[Done]:
        found = self._take()
        if not found and timeout_s > 0:
            self._wait(timeout_s)
            found = self._take()
        if self._expiries:
            self._expire(found)
        return found

    def close(self) -> None:
        for server in self._servers:
            server.dealer.close()
        self._servers.clear()

    def _encoded(self, rows: Rows) -> list[bytes]:
        deadline_us = rows.deadline_us if self._deadline_us is None else self._deadline_us
        priority = Priority.BULK if rows.bulk else Priority.INTERACTIVE
        request_id = self._last_id + 1
        return encode_request(
            InferRequest(request_id, "", deadline_us, None, rows.dense, rows.ids, None, None, priority)
        )

    def _wait(self, timeout_s: float) -> None:
        if self._expiries:
            timeout_s = min(timeout_s, max(0.0, (self._expiries[0][0] - monotonic_ns()) / 1e9))
        # Not poll: that knows whole milliseconds only.
        select.select([server.dealer.fd for server in self._servers], (), (), timeout_s)

    def _take(self) -> list[Done]:
        found: list[Done] = []
        for server in self._servers:
            while (frames := server.dealer.take()) is not None:
                now_ns = monotonic_ns()
                done = self._ended(frames, now_ns)
                if done is not None:
                    found.append(done)
        return found

    def _ended(self, frames: list[bytes], now_ns: int) -> Done | None:
        """None where it answers nothing that is under way."""
        try:
            reply = decode_reply(frames)
        except WireError:
            return None
        entry = self._under_way.pop(reply.request_id, None)
        if entry is None:
            return None
        number, server = entry
        server.in_flight -= 1
        if reply.window is not None:
            server.window = reply.window
        if isinstance(reply, ScoresReply):
            return Done(number, now_ns, OK, reply.scores, reply.times, reply.variant)
        assert isinstance(reply, RefusalReply), "INFER is answered by scores or a refusal"
        return Done(number, now_ns, reply.refusal.status.name)

    def _expire(self, found: list[Done]) -> None:
        """Also forgets the expiries of what has been answered, oldest first."""
        now_ns, expiries = monotonic_ns(), self._expiries
        while expiries and (expiries[0][1] not in self._under_way or expiries[0][0] <= now_ns):
            _, request_id = expiries.popleft()
            entry = self._under_way.pop(request_id, None)
            if entry is not None:
                number, server = entry
                server.in_flight -= 1
                server.dealer.send([encode_cancel(request_id)])
                found.append(Done(number, now_ns, TIMEOUT))


def _unanswered(server: _Server) -> int:
    return server.in_flight


def narsil_subject(
    endpoints: Sequence[str],
    inflight_max: int,
    *,
    timeout_s: float = 5.0,
    deadline_us: int | None = None,
    curve: Curve | None = None,
) -> NarsilSubject:
    """A connection to servers of one model.

    UsageFailure where an endpoint is malformed, a key cannot be read, nobody is there within CONNECT_S seconds, or
    there are more than CONNECTIONS_MAX.
    """
    if len(endpoints) > CONNECTIONS_MAX:
        raise UsageFailure(f"want at most {CONNECTIONS_MAX} connections in all, got {len(endpoints)}")
    try:
        keys = None if curve is None else curve.read()
        return NarsilSubject(endpoints, inflight_max, timeout_s=timeout_s, deadline_us=deadline_us, keys=keys)
    except (NarsilError, ValueError) as error:
        raise UsageFailure(str(error)) from None


def fetch_spec(endpoint: str, *, curve: Curve | None = None) -> ModelSpec:
    """What the server there serves. UsageFailure where none answers, or not what a model is."""
    try:
        with Client(endpoint, timeout_s=CONNECT_S, curve=curve) as client:
            return ModelSpec.from_dict(client.metadata().meta.get("spec"))
    except (NarsilError, ValueError) as error:
        raise UsageFailure(f"{endpoint}: {error}") from None


def common_spec(endpoints: Sequence[str], *, curve: Curve | None = None) -> ModelSpec:
    """What each of these servers serves. UsageFailure also where it is not the same."""
    spec, *others = (fetch_spec(endpoint, curve=curve) for endpoint in endpoints)
    if any(other != spec for other in others):
        raise UsageFailure("the servers at these endpoints have different models")
    return spec

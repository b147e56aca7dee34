"""The sockets of both clients: one DEALER and its monitor per server, driven by a Session, never waiting."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic_ns
from typing import Any

import zmq

from narsil_client.call import Call, cancel_of
from narsil_client.curve import Curve, CurveKeys
from narsil_client.dealer import HEARTBEAT_MS, Dealer, connect_socket, dealer_socket
from narsil_client.errors import ServerUnreachable
from narsil_client.monitor import Down, Event, Monitor, Up
from narsil_client.session import Session

# Before it a stranger could crash a client, or starve one (CVE-2019-6250, CVE-2019-13132, CVE-2020-15166).
LIBZMQ_OLDEST = (4, 3, 4)
KEEP_WARM_MS_MAX = HEARTBEAT_MS


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """How to connect. `queue_max` is in messages; a `context` that is given is not terminated.

    Raises ValueError where `keep_warm_ms` is not 1 to 1000.
    """

    queue_max: int
    context: zmq.SyncContext | None
    curve: Curve | None
    keep_warm_ms: int | None

    def __post_init__(self) -> None:
        if self.keep_warm_ms is not None and not 1 <= self.keep_warm_ms <= KEEP_WARM_MS_MAX:
            raise ValueError(f"want keep_warm_ms from 1 to {KEEP_WARM_MS_MAX}, got {self.keep_warm_ms}")


class Link:
    """One server's socket and monitor, until its connection ends: then another takes its place."""

    __slots__ = ("dealer", "dealer_fd", "index", "monitor", "monitor_fd")

    def __init__(self, index: int, dealer: Dealer, monitor: Monitor) -> None:
        self.index = index
        self.dealer = dealer
        self.monitor = monitor
        self.dealer_fd = dealer.fd
        self.monitor_fd = monitor.fd


class Links:
    """Everything that a Session is told comes from here, and everything that it decides is done here.

    `watch` and `unwatch` are told the descriptors whose becoming readable is to be passed to `ready`; `landed` each
    call that ends. While `busy`, `step` has something to do, and descriptors are not to be waited for.
    """

    def __init__(
        self,
        session: Session,
        options: LinkOptions,
        *,
        watch: Callable[[int], None],
        unwatch: Callable[[int], object],
        landed: Callable[[Call[Any]], None],
    ) -> None:
        self._session = session
        self._options = options
        self._watch = watch
        self._unwatch = unwatch
        self._landed = landed
        self._keys: CurveKeys | None = None
        self._context = options.context
        self._links: dict[int, Link] = {}
        self._by_fd: dict[int, Link] = {}
        # Links whose descriptor may have lost its edge.
        self._busy: dict[int, Link] = {}

    @property
    def busy(self) -> bool:
        """Whether a message may have come that no descriptor will tell of."""
        return bool(self._busy)

    def open(self, now_ns: int) -> None:
        """Start to connect. Raises ServerUnreachable (an endpoint is malformed, libzmq too old), ValueError (keys)."""
        endpoints = self._session.fleet.endpoints
        if not endpoints:
            raise ValueError("want at least one endpoint")
        if zmq.zmq_version_info() < LIBZMQ_OLDEST:
            oldest = ".".join(map(str, LIBZMQ_OLDEST))
            raise ServerUnreachable(f"libzmq {zmq.zmq_version()} has holes that {oldest} closed: install a newer pyzmq")
        if self._options.curve is not None:
            self._keys = self._options.curve.read()
        if self._context is None:
            self._context = zmq.Context()
        try:
            for index in range(len(endpoints)):
                self._connect(index, now_ns)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop what is queued and disconnect."""
        for index in [*self._links]:
            self._disconnect(index)
        if self._options.context is None and self._context is not None:
            self._context.term()
            self._context = None

    def send(self, now_ns: int) -> None:
        """Send what waits to servers that have room, and fail what none will ever take."""
        session = self._session
        if session.payloads.outbox:
            self._negotiate()
        while session.waiting and (call := session.outgoing(now_ns)) is not None:
            link = self._links[call.server]
            # The send may have taken the edge, with a reply behind it.
            self._busy[call.server] = link
            dealer, frames = link.dealer, session.payloads.message(call)
            if not dealer.send(frames) and not (dealer.writable() and dealer.send(frames)):
                session.unsent(call)
        if session.waiting:
            for call in session.hopeless(now_ns):
                self._landed(call)

    def _negotiate(self) -> None:
        """Ask for what makes payloads cheaper. What finds no room is not said: frames do as well."""
        outbox = self._session.payloads.outbox
        while outbox:
            index, frames = outbox.popleft()
            link = self._links.get(index)
            if link is not None:
                link.dealer.send(frames)
                self._busy[index] = link

    def cancel(self, calls: Sequence[Call[Any]]) -> None:
        """Tell the server that has each of these calls to drop it. What finds no room is not said."""
        for call in calls:
            message = cancel_of(call)
            if message and call.server in self._links:
                self._links[call.server].dealer.send(message)
                self._busy[call.server] = self._links[call.server]

    def ready(self, fd: int, now_ns: int) -> None:
        """A watched descriptor has become readable."""
        link = self._by_fd.get(fd)
        if link is None:
            return
        if fd == link.monitor_fd:
            self._follow(link, now_ns)
        else:
            self._busy[link.index] = link
            self._session.writable(link.index)

    def step(self, now_ns: int) -> bool:
        """Take one message of each server that may have sent one. Whether there was any."""
        any_came = False
        for index, link in [*self._busy.items()]:
            frames = link.dealer.take()
            if frames is None:
                self._busy.pop(index, None)
                continue
            any_came = True
            call = self._session.receive(index, frames, now_ns)
            if call is not None:
                self._landed(call)
        return any_came

    def drain(self, now_ns: int) -> None:
        """Take every message that has come."""
        for link in [*self._busy.values()]:
            self._drain(link, now_ns)
        self._busy.clear()

    def receive(self, index: int, timeout_ms: int) -> bool:
        """Wait for a message of this server, at most `timeout_ms`. Whether one came."""
        link = self._links[index]
        frames = link.dealer.receive(timeout_ms)
        # It may have taken the edge of what comes next.
        self._busy[index] = link
        if frames is None:
            return False
        call = self._session.receive(index, frames, monotonic_ns())
        if call is not None:
            self._landed(call)
        return True

    def reconnect(self, now_ns: int) -> None:
        """Ask again the servers that are due for it."""
        for index in self._session.fleet.due(now_ns):
            try:
                self._connect(index, now_ns)
            except (ServerUnreachable, zmq.ZMQError) as error:  # too many open files, say: it may pass
                self._disconnect(index)
                self._session.fleet.refused(index, str(error), now_ns, final=False)

    def _follow(self, link: Link, now_ns: int) -> None:
        """What came before a connection ended counts; of a new one libzmq tells only afterwards."""
        last: Event | None = None
        for last in link.monitor.read():
            if isinstance(last, Up):
                self._session.up(link.index)
            elif isinstance(last, Down):
                self._drain(link, now_ns)
                for call in self._session.down(link.index, now_ns):
                    self._landed(call)
            else:
                self._session.fleet.refused(link.index, last.reason, now_ns, final=last.final)
        if last is not None and not isinstance(last, Up):
            # A socket that was refused, or whose server broke the protocol, would not connect again by itself.
            self._disconnect(link.index)

    def _drain(self, link: Link, now_ns: int) -> None:
        while (frames := link.dealer.take()) is not None:
            call = self._session.receive(link.index, frames, now_ns)
            if call is not None:
                self._landed(call)

    def _connect(self, index: int, now_ns: int) -> None:
        options, endpoint = self._options, self._session.fleet.servers[index].endpoint
        assert self._context is not None, "open() makes the context"
        heartbeat_ms = HEARTBEAT_MS if options.keep_warm_ms is None else options.keep_warm_ms
        socket = dealer_socket(self._context, queue_max=options.queue_max, heartbeat_ms=heartbeat_ms, keys=self._keys)
        try:
            link = Link(index, Dealer(socket), Monitor(socket))
        except BaseException:
            socket.close()
            raise
        self._links[index] = link
        for fd in (link.dealer_fd, link.monitor_fd):
            self._by_fd[fd] = link
            self._watch(fd)
        connect_socket(socket, endpoint)
        if endpoint.startswith("inproc:"):
            # In one process there is no handshake, and no event of any kind.
            self._session.fleet.up(index)
        # Connecting may have swallowed the first edges.
        self._busy[index] = link
        self._follow(link, now_ns)

    def _disconnect(self, index: int) -> None:
        link = self._links.pop(index, None)
        if link is not None:
            self._busy.pop(index, None)
            for fd in (link.dealer_fd, link.monitor_fd):
                # Before they are closed: the next socket may get the same numbers.
                self._unwatch(fd)
                del self._by_fd[fd]
            link.monitor.close()
            link.dealer.close()

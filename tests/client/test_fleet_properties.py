"""Any order of events: every call ends exactly once, is sent at most twice, and windows are kept."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from narsil_client.arguments import infer_request
from narsil_client.call import Call
from narsil_client.session import Session
from narsil_transport.messages import WINDOW_START, ScoresReply
from narsil_transport.status import Refusal, Status
from narsil_transport.wire import encode_refusal
from tests.client.fake_server import DENSE, IDS
from tests.client.test_session import reply_to

SERVERS = 2
INFLIGHT_MAX = 8
STATUSES = (Status.DRAINING, Status.UNAVAILABLE, Status.OVERLOADED)
SERVER = st.integers(0, SERVERS - 1)


class Fleet(RuleBasedStateMachine):
    """Servers that answer, refuse, come and go as they like; `owed` are the requests that each has not answered."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session([str(index) for index in range(SERVERS)], INFLIGHT_MAX)
        self.now_ns = 0
        self.calls: list[Call[ScoresReply]] = []
        self.live: set[int] = set()
        self.sends: dict[int, int] = {}
        self.up = [True] * SERVERS
        self.windows = [WINDOW_START] * SERVERS
        self.owed: list[list[int]] = [[] for _ in range(SERVERS)]
        for index in range(SERVERS):
            self.session.fleet.up(index)

    def end(self, *calls: Call[Any] | None) -> None:
        """These calls have just ended, each for the first time."""
        for call in calls:
            if call is not None:
                assert call.done and (call.reply is None) is not (call.error is None)
                self.live.remove(call.request_id)

    def send(self) -> None:
        """Send whatever can be."""
        while (call := self.session.outgoing(self.now_ns)) is not None:
            assert self.up[call.server] and not call.done
            assert len(self.owed[call.server]) < self.windows[call.server], "never above the window"
            self.owed[call.server].append(call.request_id)
            self.sends[call.request_id] = self.sends.get(call.request_id, 0) + 1
            assert self.sends[call.request_id] <= 2, "at most one retry"
        self.end(*self.session.hopeless(self.now_ns))

    @rule(count=st.integers(1, 4), wait_ns=st.integers(1, 500))
    def begin(self, count: int, wait_ns: int) -> None:
        """Ask for something."""
        for _ in range(count if self.session.inflight + count <= INFLIGHT_MAX else 0):
            request = infer_request(dense=DENSE, ids=IDS)
            until_ns = self.now_ns + wait_ns
            call = self.session.begin(request, ScoresReply, now_ns=self.now_ns, expires_ns=until_ns)
            self.calls.append(call)
            self.live.add(call.request_id)
        self.send()

    @rule()
    def fill(self) -> None:
        """The socket of the next call's server has no room, for now."""
        call = self.session.outgoing(self.now_ns)
        if call is not None:
            self.session.unsent(call)

    @rule(index=SERVER)
    def write(self, index: int) -> None:
        """A socket has room again."""
        self.session.writable(index)
        self.send()

    @rule(index=SERVER, status=st.none() | st.sampled_from(STATUSES), window=st.none() | st.integers(1, 3))
    def answer(self, index: int, status: Status | None, window: int | None) -> None:
        """A server answers its oldest request."""
        if not self.owed[index]:
            return
        request_id = self.owed[index].pop(0)
        if status is None:
            self.end(self.session.receive(index, reply_to(request_id), self.now_ns))
        else:
            frames = [encode_refusal(request_id, "v", Refusal(status, "no"), window)]
            self.windows[index] = window or self.windows[index]
            self.end(self.session.receive(index, frames, self.now_ns))
        self.send()

    @rule(index=SERVER, which=st.integers(0, 9))
    def lie(self, index: int, which: int) -> None:
        """A server answers what it was not asked, or has answered already."""
        if self.up[index] and which not in self.owed[index]:
            assert self.session.receive(index, reply_to(which), self.now_ns) is None

    @rule(index=SERVER)
    def connect(self, index: int) -> None:
        """A server is there."""
        if not self.up[index]:
            self.session.fleet.up(index)
            self.up[index], self.windows[index] = True, WINDOW_START
            self.send()

    @rule(index=SERVER)
    def disconnect(self, index: int) -> None:
        """A server is gone, with what it had."""
        self.owed[index].clear()
        self.up[index] = False
        self.end(*self.session.down(index, self.now_ns))
        self.send()

    @rule(index=SERVER, final=st.booleans())
    def refuse(self, index: int, final: bool) -> None:
        """A server does not want this client."""
        if not self.up[index]:
            self.session.fleet.refused(index, "no", self.now_ns, final=final)

    @rule(wait_ns=st.integers(1, 20))
    def wait(self, wait_ns: int) -> None:
        """Time passes."""
        self.now_ns += wait_ns
        late = self.session.expire(self.now_ns)
        assert all(call.expires_ns <= self.now_ns for call in late)
        self.end(*late)

    @precondition(lambda self: bool(self.live))
    @rule(data=st.data(), forget=st.booleans())
    def give_up(self, data: st.DataObject, forget: bool) -> None:
        """The caller does not want it any more."""
        call = self.calls[data.draw(st.sampled_from(sorted(self.live))) - 1]
        if forget:
            self.session.forget(call, self.now_ns)
            self.live.remove(call.request_id)
        else:
            self.end(self.session.cancel(call, self.now_ns))

    @invariant()
    def every_live_call_is_in_flight(self) -> None:
        """None is lost and none is counted twice."""
        assert self.session.inflight == len(self.live) <= INFLIGHT_MAX
        assert {call.request_id for call in self.session.waiting} <= self.live

    def teardown(self) -> None:
        """Whatever has happened, time ends every call."""
        self.end(*self.session.expire(self.now_ns + 1000))
        assert not self.live and not self.session.waiting


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)

"""The server's loop on virtual time, around the very batcher and cost model that serve.

What the loop spends, on requests, replies and launches, is taken from the cost model as it was at the beginning;
everything else is free. A message reaches the socket at its arrival, and the loop notices it as the server would:
between launches where they run on the loop's own thread, else whenever it looks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from narsil_graph.lanes import Lanes
from narsil_graph.pace import IDLE_WAIT_MS, SPIN_NS, patience_ms
from narsil_graph.simulation.arrivals import Arrivals, ClosedLoop
from narsil_graph.simulation.durations import Durations
from narsil_graph.simulation.feeds import NEVER_NS, Arrival, ClosedFeed, Feed, OpenFeed
from narsil_graph.simulation.outcome import LAUNCH_DTYPE, REQUEST_DTYPE, Outcome, in_order, merged
from narsil_graph.simulation.policies import Policy
from narsil_graph.slo import SloController
from narsil_transport.admission import PATIENCE_NS, Admitted
from narsil_transport.batcher import Batch
from narsil_transport.cost import CostModel
from narsil_transport.messages import InferRequest
from narsil_transport.status import Status

# As `serve` has its router.
RECEIVE_MAX = 1024
# The batcher carries a request without looking at it.
UNSEEN = InferRequest(0, "", None, None, np.empty((0, 0), np.float32), None, None, None)


@dataclass(slots=True, eq=False)
class Scheduler:
    """What decides in one server: its batcher, the cost model which that learns from, and the controller, if any.

    Without `admission` nothing is refused for a deadline that it would miss.
    """

    policy: Policy
    cost: CostModel
    slo: SloController | None = None
    admission: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where it runs: on a CPU a launch occupies the loop (`shared_loop`), and each lane is a server of its own, to
    which clients send in turn; else one loop feeds all lanes, and each takes `slots` launches before one is read.

    With `jitter` a launch's duration is drawn as a lognormal of the bucket's median and p99, else it is the median.
    """

    shared_loop: bool
    lanes: int = 1
    slots: int = 2
    jitter: bool = True

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.slots < 1:
            raise ValueError(f"want at least one lane and one slot, got {self.lanes} and {self.slots}")


def simulate(
    source: Arrivals | ClosedLoop, scheduler: Callable[[], Scheduler], place: Place, *, seed: int = 0
) -> Outcome:
    """Run until every request has its answer. `scheduler` makes a new one for each server."""
    servers = place.lanes if place.shared_loop else 1
    rngs = np.random.default_rng(seed).spawn(2 * servers)
    outcomes = [
        _Loop(_feed(source, number, servers, rngs[2 * number]), scheduler(), place, rngs[2 * number + 1]).run()
        for number in range(servers)
    ]
    return outcomes[0] if servers == 1 else merged(outcomes)


def _feed(source: Arrivals | ClosedLoop, number: int, servers: int, rng: np.random.Generator) -> Feed:
    if isinstance(source, Arrivals):
        return OpenFeed(source.part(slice(number, None, servers)))
    clients = len(range(number, source.clients, servers))
    return ClosedFeed(source, clients, rng)


@dataclass(slots=True, eq=False)
class _InFlight:
    batch: Batch
    lane: int
    begin_ns: int
    end_ns: int
    alone: bool


class _Loop:
    """One server: `step` does what narsil_graph.server.Server's does, in the same order."""

    def __init__(self, feed: Feed, scheduler: Scheduler, place: Place, rng: np.random.Generator) -> None:
        self.feed = feed
        self.scheduler = scheduler
        self.policy = scheduler.policy
        self.cost = scheduler.cost
        self.shared_loop = place.shared_loop
        lanes = 1 if place.shared_loop else place.lanes
        self.lanes = Lanes(self.cost, lanes)
        self.room = 1 if place.shared_loop else place.lanes * place.slots
        self.now_ns = 0
        self.last_launch_ns = 0
        self.in_flight: list[_InFlight] = []
        self.end_ns = [0] * lanes
        """When each lane will be free in truth; `lanes.free_ns` is what the server knows."""
        self.durations = Durations(self.cost, rng, jitter=place.jitter)
        self.request_ns, self.reply_ns = self.cost.request_ns, self.cost.reply_ns
        self.seen: list[Arrival] = []
        self.received_ns: list[int] = []
        self.answered_ns: list[int] = []
        self.status: list[int] = []
        self.rows_left: list[int] = []
        self.launches: list[tuple[int, int, int, int, int, int]] = []

    def run(self) -> Outcome:
        idle_steps = 0
        while (look_ns := self.look_ns()) != NEVER_NS:
            # A policy that says when it would launch, and does not, would stop virtual time.
            idle_steps = 0 if look_ns > self.now_ns else idle_steps + 1
            self.now_ns = look_ns
            if self.step():
                idle_steps = 0
            assert idle_steps < 3, "the policy does not launch what it said it would"
        assert not self.policy.pending_requests, "the policy keeps requests for ever"
        return self.outcome()

    def look_ns(self) -> int:
        """When the loop next has something to look at: as the server's patience has it, without its spinning."""
        now_ns, arrival_ns = self.now_ns, self.feed.next_ns()
        queued, flights = self.policy.pending_requests, self.in_flight
        if not (queued or flights):
            return max(now_ns, arrival_ns)
        wake_ns = self.policy.wake_ns(now_ns)
        wait_ms = patience_ms(
            queued=queued,
            in_flight=len(flights),
            since_launch_ns=now_ns - self.last_launch_ns,
            linger_ns=0 if wake_ns is None else max(wake_ns - now_ns, 0),
            idle_ms=IDLE_WAIT_MS,
        )
        if wait_ms:
            return max(now_ns, min(arrival_ns, now_ns + wait_ms * 1_000_000))
        soonest_ns = arrival_ns
        if flights:
            landing_ns = min(flying.end_ns for flying in flights)
            soonest_ns = min(soonest_ns, landing_ns, max(now_ns, self.last_launch_ns + SPIN_NS))
        if wake_ns is not None and self.room:
            soonest_ns = min(soonest_ns, wake_ns)
        return max(now_ns, soonest_ns)

    def step(self) -> bool:
        arrived = self.feed.receive(self.now_ns, RECEIVE_MAX)
        for arrival in arrived:
            self.accept(arrival)
        now_ns = self.now_ns
        expired = self.policy.expired(now_ns)
        for admitted in expired:
            self.answer(admitted, Status.DEADLINE_EXCEEDED)
        launched = False
        while self.room and (batch := self.policy.take(now_ns)) is not None:
            self.launch(batch)
            launched = True
        for flying in tuple(self.in_flight):
            if flying.end_ns <= self.now_ns:
                self.land(flying)
                launched = True
        slo = self.scheduler.slo
        if slo is not None and (settings := slo.adjust(now_ns)) is not None:
            self.policy.tune(settings)
        return bool(arrived or expired or launched)

    def accept(self, arrival: Arrival) -> None:
        index, now_ns = len(self.seen), self.now_ns
        self.seen.append(arrival)
        self.received_ns.append(now_ns)
        self.answered_ns.append(-1)
        self.status.append(Status.OK)
        self.rows_left.append(arrival.rows)
        self.now_ns += self.request_ns
        admitted = admitted_of(arrival, index, now_ns)
        refusal = None
        if self.scheduler.admission:
            refusal = self.policy.refuse_late(admitted, now_ns=now_ns, free_ns=self.lanes.free_ns)
        if refusal is None:
            refusal = self.policy.add(admitted)
        if refusal is not None:
            self.answer(admitted, refusal.status)

    def launch(self, batch: Batch) -> None:
        now_ns, duration_ns = self.now_ns, self.durations.draw(batch.bucket)
        self.last_launch_ns = now_ns
        # As the engine picks it.
        lane = self.lanes.emptiest()
        begin_ns = max(now_ns, self.end_ns[lane])
        end_ns = self.end_ns[lane] = begin_ns + duration_ns
        alone = self.lanes.launched(batch.bucket, lane, now_ns)
        self.room -= 1
        self.in_flight.append(_InFlight(batch, lane, begin_ns, end_ns, alone))
        self.launches.append((begin_ns, end_ns, batch.bucket.rows, batch.rows, len(batch.pieces), lane))
        if self.shared_loop:
            self.now_ns = end_ns

    def land(self, flying: _InFlight) -> None:
        now_ns, taken_ns = self.now_ns, flying.end_ns - flying.begin_ns
        self.in_flight.remove(flying)
        self.room += 1
        self.lanes.landed(flying.batch.bucket, flying.lane, taken_ns, now_ns, alone=flying.alone)
        slo = self.scheduler.slo
        for piece in flying.batch.pieces:
            admitted = piece.admitted
            index = index_of(admitted)
            self.rows_left[index] -= piece.end - piece.begin
            if not self.rows_left[index]:
                if slo is not None:
                    slo.observe(now_ns - admitted.admitted_ns, now_ns)
                self.answer(admitted, Status.OK)

    def answer(self, admitted: Admitted, status: Status) -> None:
        """Exactly once for each request."""
        index = index_of(admitted)
        assert self.answered_ns[index] < 0
        self.now_ns += self.reply_ns
        self.answered_ns[index] = self.now_ns
        self.status[index] = status
        self.feed.answered(index, self.now_ns)

    def outcome(self) -> Outcome:
        requests = np.empty(len(self.seen), REQUEST_DTYPE)
        requests["received_ns"], requests["answered_ns"] = self.received_ns, self.answered_ns
        requests["status"] = self.status
        for name in ("arrival_ns", "rows", "deadline_us", "bulk"):
            requests[name] = [getattr(arrival, name) for arrival in self.seen]
        assert np.all(requests["answered_ns"] >= requests["received_ns"]), "a request has no answer"
        launches = np.array(self.launches, LAUNCH_DTYPE)
        return Outcome(requests, in_order(launches, "begin_ns"), len(self.end_ns))


def admitted_of(arrival: Arrival, index: int, now_ns: int) -> Admitted:
    """As admission would have it, received now; its route is its number."""
    rows, ids = arrival.rows, arrival.ids
    deadline_ns = now_ns + arrival.deadline_us * 1000 if arrival.deadline_us else None
    due_ns = now_ns + PATIENCE_NS if deadline_ns is None else deadline_ns
    ids_per_row, uneven = divmod(ids, rows)
    # A trace says how many ids a request has, not where: they are spread evenly.
    offsets = np.arange(rows + 1, dtype=np.int64) * ids // rows if uneven or not ids else None
    return Admitted(index, UNSEEN, now_ns, deadline_ns, rows, ids, ids_per_row, offsets, due_ns, arrival.bulk)


def index_of(admitted: Admitted) -> int:
    index = admitted.route
    assert type(index) is int
    return index

"""What holds for every request, whatever else arrives, drifts, or is tuned: a state machine over virtual time."""

from dataclasses import dataclass
from itertools import accumulate

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from narsil_transport.admission import Admitted
from narsil_transport.batcher import BULK_PATIENCE_NS, Batch, Batcher, Mode, Settings
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.messages import InferRequest, Priority
from narsil_transport.status import Status
from tests.transport.requests import FEATURES, admitted, limits, multi_hot, one_hot

US, SECOND = 1000, 1_000_000_000
QUEUE_ROWS_MAX = 120
# No row of a generated request has more ids.
ROW_IDS_MAX = 3 * FEATURES

COST_US_MAX = 40
COSTS_NS = st.integers(1, COST_US_MAX).map(lambda us: us * US)
# (rows, ids) that one bucket has more than the last.
STEPS = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 30)), min_size=1, max_size=5)
LENGTHS = st.lists(st.lists(st.integers(0, 3), min_size=FEATURES, max_size=FEATURES), min_size=1, max_size=6)
REQUESTS = (st.integers(1, 8) | st.integers(1, 30)).map(one_hot) | LENGTHS.map(
    lambda rows: multi_hot(rows, [0] * sum(map(sum, rows)))
)
SETTINGS = st.builds(
    Settings,
    linger_ns=st.sampled_from([0, 0, 20 * US, 2 * SECOND]),
    rows_max=st.none() | st.integers(1, 40),
    margin_ns=st.sampled_from([0, 10 * US]),
)
TIMES_NS = st.integers(0, 100).map(lambda us: us * US) | st.sampled_from([SECOND, BULK_PATIENCE_NS])
# (request, budget in us, whether it is bulk)
ARRIVALS = st.tuples(REQUESTS, st.none() | st.integers(1, 100) | st.integers(1, 1000), st.booleans())
# Twice what makes choices.
MODES = st.sampled_from([Mode.BATCH, Mode.BATCH, Mode.WORKER])


@dataclass(eq=False)
class Followed:
    """A request that was queued, the number of its arrival, and how many of its rows were launched."""

    admitted: Admitted
    number: int
    launched: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """What it is ordered by among interactive requests."""
        if self.admitted.bulk:
            return self.admitted.admitted_ns + BULK_PATIENCE_NS, self.number
        return self.admitted.due_ns, self.number


class BatcherMachine(RuleBasedStateMachine):
    """A batcher, and what became of everything that entered it."""

    now_ns = 0
    arrivals = 0

    @initialize(steps=STEPS, costs=st.lists(COSTS_NS, min_size=5, max_size=5), mode=MODES, tuned=SETTINGS)
    def build(self, steps: list[tuple[int, int]], costs: list[int], mode: Mode, tuned: Settings) -> None:
        rows, ids = accumulate(rows for rows, _ in steps), accumulate(ids for _, ids in steps)
        buckets = [Bucket(rows, max(1, ids)) for rows, ids in zip(rows, ids, strict=True)]
        buckets[-1] = Bucket(buckets[-1].rows, max(buckets[-1].ids, ROW_IDS_MAX))
        self.ladder = self.full_ladder = BucketLadder(tuple(buckets))
        self.cost = CostModel(
            {bucket: LaunchCost(cost_ns, 2 * cost_ns) for bucket, cost_ns in zip(buckets, costs, strict=False)}
        )
        self.mode = mode
        self.batcher = Batcher(
            ladder=self.ladder, cost=self.cost, mode=mode, queue_rows_max=QUEUE_ROWS_MAX, settings=tuned
        )
        self.waiting: dict[Admitted, Followed] = {}
        self.ended: set[int] = set()

    @rule(arrivals=st.lists(ARRIVALS, min_size=1, max_size=4), lanes=st.integers(1, 3))
    def arrive(self, arrivals: list[tuple[InferRequest, int | None, bool]], lanes: int) -> None:
        for request, deadline_us, bulk in arrivals:
            self.enter(request, deadline_us, lanes, bulk=bulk)

    def enter(self, request: InferRequest, deadline_us: int | None, lanes: int, *, bulk: bool) -> None:
        request.deadline_us = deadline_us
        request.priority = Priority.BULK if bulk else Priority.INTERACTIVE
        entered = admitted(request, now_ns=self.now_ns, within=limits(ids_per_row_max=self.full_ladder.ids_max))
        free_ns = [self.now_ns + lane * 10 * US for lane in range(lanes)]
        late = self.batcher.refuse_late(entered, now_ns=self.now_ns, free_ns=free_ns)
        if late is not None:
            assert late.status is Status.WOULD_MISS and late.predicted_us is not None and deadline_us is not None
            margin_us = max(self.batcher.settings.margin_ns // US, deadline_us // 3)
            assert late.predicted_us + margin_us >= deadline_us - 1
        pending_rows = self.batcher.pending_rows
        refusal = self.batcher.add(entered)
        if refusal is not None:
            assert refusal.status is Status.OVERLOADED and pending_rows + entered.rows > QUEUE_ROWS_MAX
            return
        self.arrivals += 1
        self.waiting[entered] = Followed(entered, self.arrivals)

    @rule(passed_ns=TIMES_NS)
    def wait(self, passed_ns: int) -> None:
        self.now_ns += passed_ns

    @rule(launches=st.integers(1, 5))
    def serve(self, launches: int) -> None:
        """One lane, which takes the next batch when it has finished one."""
        for _ in range(launches):
            batch = self.take()
            if batch is not None:
                self.now_ns += self.cost.launch_ns(batch.bucket)

    def take(self) -> Batch | None:
        self.expire()
        pending_rows, wake_ns = self.batcher.pending_rows, self.batcher.wake_ns(self.now_ns)
        batch = self.batcher.take(self.now_ns)
        if batch is None:
            assert wake_ns is None if not pending_rows else wake_ns is not None and wake_ns > self.now_ns
            return None
        assert wake_ns == self.now_ns
        assert batch.rows == pending_rows - self.batcher.pending_rows > 0
        self.check_room(batch)
        self.launch(batch)
        return batch

    @precondition(lambda self: self.batcher.pending_requests)
    @rule()
    def wake(self) -> None:
        """Sleep as long as the batcher allows: then there is a batch, unless all has expired by then."""
        wake_ns = self.batcher.wake_ns(self.now_ns)
        assert wake_ns is not None and wake_ns >= self.now_ns
        self.now_ns, pending_rows = wake_ns, self.batcher.pending_rows
        self.take()
        assert self.batcher.pending_rows < pending_rows

    @rule(modulus=st.integers(1, 4))
    def cancel(self, modulus: int) -> None:
        chosen = {request for request, followed in self.waiting.items() if followed.number % modulus == 0}
        cancelled = self.batcher.cancel(lambda request: request in chosen)
        assert len(cancelled) == len(set(cancelled))
        assert set(cancelled) == {request for request in chosen if not self.waiting[request].launched}
        for request in cancelled:
            self.end(request)

    @rule(tuned=SETTINGS)
    def tune(self, tuned: Settings) -> None:
        self.batcher.tune(tuned)
        assert self.batcher.settings == tuned

    @rule(keep=st.sets(st.integers(0, 3)))
    def use(self, keep: set[int]) -> None:
        buckets = self.full_ladder.buckets
        self.ladder = BucketLadder((*(buckets[at] for at in sorted(keep) if at < len(buckets) - 1), buckets[-1]))
        self.batcher.use(self.ladder)

    @rule(at=st.integers(0, 4), taken_ns=COSTS_NS)
    def drift(self, at: int, taken_ns: int) -> None:
        self.cost.observe(self.full_ladder.buckets[at % len(self.full_ladder.buckets)], taken_ns)

    @invariant()
    def what_is_pending_is_what_has_not_left(self) -> None:
        left = self.waiting.values()
        assert self.batcher.pending_requests == len(left)
        assert self.batcher.pending_rows == sum(each.admitted.rows - each.launched for each in left)
        cut = {each.admitted for each in left if each.launched}
        assert set(self.batcher.cuts) == cut and len(self.batcher.cuts) == len(cut)
        assert sum(request.bulk for request in cut) <= 1 and sum(not request.bulk for request in cut) <= 1

    def teardown(self) -> None:
        """Everything leaves, by no more launches than there are rows."""
        for _ in range(self.batcher.pending_rows):
            if self.batcher.pending_requests:
                self.wake()
        assert not self.waiting and self.batcher.take(self.now_ns) is None
        assert self.ended == set(range(1, self.arrivals + 1))

    def expire(self) -> None:
        slowest_ns = max(self.cost.launch_ns(bucket) for bucket in self.full_ladder.buckets)
        for request in self.batcher.expired(self.now_ns):
            assert request.deadline_ns is not None and not self.waiting[request].launched
            # At most a launch for each row, or for each row's worth of ids; a plan may be older than the estimates.
            launches_max = request.rows + request.ids * self.full_ladder.rows_max
            assert request.deadline_ns <= self.now_ns + launches_max * max(slowest_ns, COST_US_MAX * US)
            self.end(request)

    def end(self, request: Admitted) -> None:
        self.ended.add(self.waiting.pop(request).number)

    def check_room(self, batch: Batch) -> None:
        assert batch.bucket in self.ladder.buckets
        assert batch.rows == sum(piece.end - piece.begin for piece in batch.pieces) <= batch.bucket.rows
        assert batch.ids == sum(piece.ids for piece in batch.pieces) <= batch.bucket.ids
        assert self.mode is Mode.BATCH or len(batch.pieces) == 1

    def launch(self, batch: Batch) -> None:
        """Follow each piece: rows in order, nothing late, and nothing before what is due before it."""
        leader = batch.pieces[0].admitted
        aged = {request for request in self.waiting if request.bulk and self.has_aged(request)}
        assert not leader.bulk or aged or all(request.bulk for request in self.waiting)
        began: list[tuple[int, int]] = []
        for piece in batch.pieces:
            request = piece.admitted
            followed = self.waiting[request]
            assert followed.launched == piece.begin < piece.end <= request.rows
            offsets, rows = request.row_offsets, piece.end - piece.begin
            assert piece.ids == (FEATURES * rows if offsets is None else offsets[piece.end] - offsets[piece.begin])
            if not piece.begin:
                assert request.deadline_ns is None or request.deadline_ns > self.now_ns
                if not request.bulk:
                    began.append(followed.key)
            followed.launched = piece.end
            if piece.end == request.rows:
                self.end(request)
        assert began == sorted(began)
        for followed in self.waiting.values() if began else ():
            # Bulk that waited long enough is among those that nothing due later may pass.
            if followed.admitted in aged:
                assert began[-1][0] <= followed.key[0]
            elif not followed.admitted.bulk and not followed.launched:
                assert began[-1] < followed.key

    def has_aged(self, request: Admitted) -> bool:
        return self.now_ns - request.admitted_ns >= BULK_PATIENCE_NS


TestBatcherMachine = BatcherMachine.TestCase
TestBatcherMachine.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)

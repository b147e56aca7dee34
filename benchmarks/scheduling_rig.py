"""What benchmarks/scheduling.py simulates on: a cost curve, the policies that are compared, and their traffic."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from narsil_graph.cost_file import load_cost
from narsil_graph.simulation.arrivals import Arrivals, ClosedLoop, mlperf, poisson_ns
from narsil_graph.simulation.durations import costs_of
from narsil_graph.simulation.outcome import Outcome
from narsil_graph.simulation.policies import FixedTimeout
from narsil_graph.simulation.simulator import Place, Scheduler, simulate
from narsil_transport.batcher import Batcher, Mode, Settings
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel, LaunchCost

# Of the reference model in float32 on one core of an AMD EPYC, medians of an earlier measurement; no p99 was kept.
CURVE_ROWS = (1, 2, 4, 8, 16, 32, 64, 100, 128, 192, 256, 384, 512)
CURVE_US = (68, 104, 165, 188, 245, 370, 611, 876, 1097, 1555, 2034, 2972, 3929)
# As hot_path.py has it for 100 rows.
REQUEST_NS, REPLY_NS = 17_000, 6_000
# The CPU's default; a cost file has its own.
LADDER_ROWS = (1, 2, 4, 8, 16, 32, 64, 100, 128, 200, 256, 300, 400)
# What the plain policy usually has, as far as it was measured.
POWERS_OF_TWO = tuple(1 << power for power in range(17))
TIMEOUTS_MS = (0.5, 1.0, 2.0, 5.0)
QUEUE_ROWS_MAX = 65536
MEAN_ROWS = 270


@dataclass(frozen=True, slots=True)
class Bench:
    """The costs, where they hold, and how much is simulated."""

    measured: tuple[tuple[Bucket, LaunchCost], ...]
    ladder: BucketLadder
    request_ns: int
    reply_ns: int
    place: Place
    seeds: int
    seconds: float

    def cost(self, ladder: BucketLadder) -> CostModel:
        return costs_of(ladder, self.measured, request_ns=self.request_ns, reply_ns=self.reply_ns)

    @property
    def powers_of_two(self) -> BucketLadder:
        largest = self.measured[-1][0]
        rows = [count for count in POWERS_OF_TWO if count <= largest.rows]
        return BucketLadder.from_rows(rows, ids_per_row=largest.ids // largest.rows)

    @property
    def capacity(self) -> float:
        """Requests per second that no policy can pass: full launches of the bucket that costs least per row."""
        cost = self.cost(self.ladder)
        row_ns = min(cost.launch_ns(bucket) / bucket.rows for bucket in cost.buckets)
        loop_ns = self.request_ns + self.reply_ns
        lane_ns = MEAN_ROWS * row_ns
        return self.place.lanes * 1e9 / (lane_ns + loop_ns if self.place.shared_loop else max(lane_ns, loop_ns))

    def by_cost(
        self, ladder: BucketLadder | None = None, *, admission: bool = True, margin: bool = False
    ) -> Callable[[], Scheduler]:
        """With a `margin` requests are meant to be done a launch of the largest bucket before their deadline."""

        def made() -> Scheduler:
            used = ladder or self.ladder
            cost = self.cost(used)
            settings = Settings(margin_ns=cost.launch_ns(used.buckets[-1]) if margin else 0)
            batcher = Batcher(ladder=used, cost=cost, mode=Mode.BATCH, queue_rows_max=QUEUE_ROWS_MAX, settings=settings)
            return Scheduler(batcher, cost, admission=admission)

        return made

    def by_timeout(self, timeout_ms: float, ladder: BucketLadder | None = None) -> Callable[[], Scheduler]:
        def made() -> Scheduler:
            used = ladder or self.ladder
            policy = FixedTimeout(ladder=used, timeout_ns=int(timeout_ms * 1e6), queue_rows_max=QUEUE_ROWS_MAX)
            return Scheduler(policy, self.cost(used))

        return made

    def policies(self) -> dict[str, Callable[[], Scheduler]]:
        """By cost first; then every timeout on the same ladder, and on powers of two."""
        plain = {f"timeout {ms} ms": self.by_timeout(ms) for ms in TIMEOUTS_MS}
        powers = {f"timeout {ms} ms, powers of two": self.by_timeout(ms, self.powers_of_two) for ms in TIMEOUTS_MS}
        return {"by cost": self.by_cost(), **plain, **powers}

    def poisson(self, seed: int, pieces: Sequence[tuple[float, float]], *, deadline_us: int = 0) -> Arrivals:
        """MLPerf sizes; the pieces are shares of the capacity and seconds."""
        rng = np.random.default_rng(seed)
        arrival_ns = poisson_ns(rng, [(load * self.capacity, seconds) for load, seconds in pieces])
        return Arrivals.drawn(arrival_ns, mlperf()(rng, len(arrival_ns)), ids_per_row=1, deadline_us=deadline_us)

    def run(self, source: Arrivals | ClosedLoop, made: Callable[[], Scheduler], seed: int) -> Outcome:
        return simulate(source, made, self.place, seed=seed)


def bench_of(path: Path | None, *, seeds: int, seconds: float) -> Bench:
    """From this cost file, or from the built-in curve; says which."""
    if path is None:
        print("# costs:    the built-in curve of the reference model, float32 on one core; launches take their median")
        measured = tuple(
            (Bucket(rows, rows), LaunchCost(us * 1000, us * 1000))
            for rows, us in zip(CURVE_ROWS, CURVE_US, strict=True)
        )
        place = Place(shared_loop=True, jitter=False)
        ladder = BucketLadder.from_rows(LADDER_ROWS, ids_per_row=1)
        return Bench(measured, ladder, REQUEST_NS, REPLY_NS, place, seeds, seconds)
    costs = load_cost(path)
    print(f"# costs:    {costs.model} {costs.version}, {costs.precision}, {costs.threads} threads, on {costs.machine}")
    place = Place(shared_loop=costs.shared_loop)
    request_ns, reply_ns = round(costs.request_us * 1e3), round(costs.reply_us * 1e3)
    return Bench(costs.launches, costs.ladder, request_ns, reply_ns, place, seeds, seconds)

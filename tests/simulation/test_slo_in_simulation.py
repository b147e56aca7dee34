"""The SLO's controller around the batcher that serves, on the simulated loop."""

import numpy as np
import numpy.typing as npt
import pytest

from narsil_graph.simulation.arrivals import Arrivals, constant, lognormal, poisson_ns
from narsil_graph.simulation.outcome import Outcome
from narsil_graph.simulation.simulator import Place, Scheduler, simulate
from narsil_graph.slo import SloController
from narsil_transport.batcher import Batcher, Mode, Settings
from narsil_transport.buckets import BucketLadder
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.status import Status

LADDER = BucketLadder.from_rows((16, 32, 64, 128, 192, 256, 384, 512), ids_per_row=1)
SLO_NS = 10_000_000
ROWS = 48
LOADS = (0.3, 0.9, 1.5, 0.3)
PIECE_S = 5
ON_THE_LOOP = Place(shared_loop=True)
AHEAD = Place(shared_loop=False, slots=2)


def cost_model() -> CostModel:
    """About the float32 plan on one core."""
    medians_ns = {bucket: 130_000 + 7_400 * bucket.rows for bucket in LADDER.buckets}
    measured = {bucket: LaunchCost(median, int(1.15 * median)) for bucket, median in medians_ns.items()}
    return CostModel(measured, request_ns=8_000, reply_ns=4_000)


class Watched(SloController):
    """Remembers when it changed the settings."""

    def __init__(self, cost: CostModel, slots: int) -> None:
        super().__init__(slo_p99_ns=SLO_NS, cost=cost, ladder=LADDER, slots=slots)
        self.changed_s: list[float] = []

    def adjust(self, now_ns: int) -> Settings | None:
        settings = super().adjust(now_ns)
        if settings is not None:
            self.changed_s.append(now_ns / 1e9)
        return settings


def capacity(slots: int) -> float:
    """Requests a second of `ROWS` rows, in full batches of the first cap."""
    cost = cost_model()
    rows = Watched(cost, slots).settings.rows_max
    assert rows is not None
    bucket = LADDER.cover(rows, rows)
    assert bucket is not None
    return 1e9 / (cost.launch_ns(bucket) * ROWS / rows + cost.request_ns + cost.reply_ns)


def run(place: Place, loads: tuple[float, ...], piece_s: float, *, even: bool = True) -> tuple[Outcome, Watched]:
    """Poisson requests at these fractions of the capacity, each with the objective for its deadline."""
    slots = 1 if place.shared_loop else place.slots
    controllers: list[Watched] = []

    def scheduler() -> Scheduler:
        cost = cost_model()
        slo = Watched(cost, slots)
        controllers.append(slo)
        batcher = Batcher(ladder=LADDER, cost=cost, mode=Mode.BATCH, queue_rows_max=100_000, settings=slo.settings)
        return Scheduler(batcher, cost, slo)

    rng = np.random.default_rng(0)
    arrival_ns = poisson_ns(rng, [(load * capacity(slots), piece_s) for load in loads])
    sizes = (constant(ROWS) if even else lognormal(ROWS / np.exp(0.5**2 / 2), 0.5))(rng, len(arrival_ns))
    arrivals = Arrivals.drawn(arrival_ns, sizes, ids_per_row=1, deadline_us=SLO_NS // 1000)
    return simulate(arrivals, scheduler, place), controllers[0]


def latency_ns(outcome: Outcome, begin_s: float, end_s: float) -> npt.NDArray[np.int64]:
    """int64 [answered], from receipt to reply, of the requests that came in that time and were answered with scores."""
    requests = outcome.requests
    within = (requests["arrival_ns"] >= begin_s * 1e9) & (requests["arrival_ns"] < end_s * 1e9)
    chosen: npt.NDArray[np.bool_] = within & (requests["status"] == Status.OK)
    return outcome.server_ns[chosen]


@pytest.mark.parametrize("even", [True, False], ids=["even sizes", "lognormal sizes"])
@pytest.mark.parametrize("place", [ON_THE_LOOP, AHEAD], ids=["on the loop", "launches ahead"])
def test_after_each_step_of_load_the_p99_holds_and_little_goodput_is_given_up(place: Place, even: bool) -> None:
    outcome, _ = run(place, LOADS, PIECE_S, even=even)
    for index, load in enumerate(LOADS):
        begin_s, end_s = PIECE_S * index + 3, PIECE_S * (index + 1)
        found_ns = latency_ns(outcome, begin_s, end_s)
        assert np.quantile(found_ns, 0.99) <= 1.05 * SLO_NS
        goodput = np.sum(found_ns <= SLO_NS) / (end_s - begin_s)
        assert goodput >= 0.9 * min(load, 1.0) * capacity(1 if place.shared_loop else place.slots)


@pytest.mark.parametrize("load", [0.9, 1.5])
def test_settings_rest_under_a_steady_load(load: float) -> None:
    outcome, slo = run(AHEAD, (load,), 23)
    assert sum(at_s >= 3 for at_s in slo.changed_s) <= 8
    assert np.quantile(latency_ns(outcome, 3, 23), 0.99) <= SLO_NS

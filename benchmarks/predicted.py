"""The simulator's word beside the server's deed: latencies at 30, 60 and 80% load, predicted and measured.

python benchmarks/predicted.py
"""

import tempfile
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks import machine
from benchmarks.machine import SEED
from benchmarks.processes import Served, pinned, two_cpus
from narsil_client import Client
from narsil_client.dealer import Dealer, connect
from narsil_graph.engine.synthetic import one_hot_request
from narsil_graph.model.spec import ModelSpec
from narsil_graph.model.weights import load_model
from narsil_graph.simulation.arrivals import Arrivals, ClosedLoop, mlperf, poisson_ns
from narsil_graph.simulation.simulator import Place, Scheduler, simulate
from narsil_transport.batcher import Batcher, Mode
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.messages import ScoresReply
from narsil_transport.wire import decode_reply, encode_request

LOADS = (0.3, 0.6, 0.8)
# Clients of the closed loop whose throughput is the capacity.
CLIENTS = 16
# Requests per second that hardly ever meet, and for how long.
TRICKLE, TRICKLE_S = 8.0, 6.0
# Of the load to be predicted, for the server to learn its costs from.
WARM_S = 3.0
# Of the capacity by the costs at start: what the costs that give the capacity are learned at.
FIRST_LOAD = 0.6
LAST_REPLY_MS = 5_000
POLL_S = 30e-6
Floats = npt.NDArray[np.float64]


def main() -> None:
    options = machine.parser(__doc__).parse_args()
    report = machine.Report("predicted and measured latency: Poisson arrivals, sizes of 100 to 700 rows, ipc")
    spec = load_model(machine.made(options.model)).spec
    server_cpu, client_cpu = two_cpus()
    rounds, seconds = (1, 0.5) if options.quick else (5, 8.0)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="narsil-") as folder:
        bind = f"ipc://{folder}/predicted"
        with Served(options.model, bind, cpu=server_cpu), pinned(client_cpu):
            ladder = ladder_of(bind)
            capacity = requests_per_s(costs_of(bind), ladder)
            round_trips_us(bind, spec, drawn((SEED,), FIRST_LOAD * capacity, WARM_S, spec))
            capacity = requests_per_s(costs_of(bind), ladder)
            around_us = around(bind, spec, ladder)
            for number in range(rounds):
                for load in LOADS:
                    key = (SEED, number, round(load * 100))
                    round_trips_us(bind, spec, drawn((*key, 0), load * capacity, WARM_S, spec))
                    cost, arrivals = costs_of(bind), drawn((*key, 1), load * capacity, seconds, spec)
                    simulated_us = latencies_us(arrivals, cost, ladder) + around_us
                    rows += compared(load, number, round_trips_us(bind, spec, arrivals), simulated_us)
    lone = f"{around_us:.0f} us around a lone request, measured at {TRICKLE:.0f} requests/s"
    report.table(f"capacity {capacity:.0f} requests/s by simulation; {lone}", rows)
    report.table("the same: medians of the rounds", medians(rows))
    report.write(options.json)


def ladder_of(bind: str) -> BucketLadder:
    with Client(bind) as client:
        return BucketLadder(tuple(Bucket(*pair) for pair in client.metadata().meta["buckets"]))


def costs_of(bind: str) -> CostModel:
    """The cost model that a server tells of in METADATA, as it stands after what it served last."""
    with Client(bind) as client:
        told = client.metadata().meta["cost"]
    return CostModel(
        {
            Bucket(each["rows"], each["ids"]): LaunchCost(
                round(each["now_us"] * 1e3), round(each["now_us"] * each["p99_us"] / each["median_us"] * 1e3)
            )
            for each in told["buckets"]
        },
        request_ns=round(told["request_us"] * 1e3),
        reply_ns=round(told["reply_us"] * 1e3),
    )


def scheduler_of(cost: CostModel, ladder: BucketLadder) -> Scheduler:
    # A copy: the simulated server learns, and must not teach the next.
    own = CostModel(
        {bucket: LaunchCost(cost.launch_ns(bucket), cost.tail_ns(bucket)) for bucket in cost.buckets},
        request_ns=cost.request_ns,
        reply_ns=cost.reply_ns,
    )
    return Scheduler(Batcher(ladder=ladder, cost=own, mode=Mode.BATCH, queue_rows_max=1 << 16), own)


def requests_per_s(cost: CostModel, ladder: BucketLadder) -> float:
    """What a closed loop gets through, simulated."""
    source = ClosedLoop(CLIENTS, 1.0, 5.0, mlperf(), ids_per_row=1)
    outcome = simulate(source, lambda: scheduler_of(cost, ladder), Place(shared_loop=True), seed=SEED)
    return len(outcome.requests) / 5.0


def around(bind: str, spec: ModelSpec, ladder: BucketLadder) -> float:
    """Microseconds that a request which meets an idle server spends outside what the cost model knows.

    Sockets, waking two sleeping cores, and a launch that finds the caches cold: of a trickle of requests, by how much
    the median latency exceeds the simulated one.
    """
    cost, arrivals = costs_of(bind), drawn((SEED, 1), TRICKLE, TRICKLE_S, spec)
    return float(np.median(round_trips_us(bind, spec, arrivals) - latencies_us(arrivals, cost, ladder)))


def drawn(key: tuple[int, ...], rate: float, seconds: float, spec: ModelSpec) -> Arrivals:
    rng = np.random.default_rng(key)
    arrival_ns = poisson_ns(rng, [(rate, seconds)])
    return Arrivals.drawn(arrival_ns, mlperf()(rng, len(arrival_ns)), ids_per_row=len(spec.sparse_features))


def latencies_us(arrivals: Arrivals, cost: CostModel, ladder: BucketLadder) -> Floats:
    outcome = simulate(arrivals, lambda: scheduler_of(cost, ladder), Place(shared_loop=True), seed=SEED)
    found: Floats = outcome.latency_ns / 1e3
    return found


def round_trips_us(bind: str, spec: ModelSpec, arrivals: Arrivals) -> Floats:
    """An open loop: each request leaves at its time, whatever came back, and its latency counts from that time."""
    rng = np.random.default_rng(SEED)
    by_rows = {int(rows): one_hot_request(spec, int(rows), rng) for rows in np.unique(arrivals.rows)}
    tensors = {rows: encode_request(request)[1:] for rows, request in by_rows.items()}
    heads: list[bytes] = []
    for number, rows in enumerate(arrivals.rows.tolist()):
        by_rows[rows].request_id = number
        heads.append(encode_request(by_rows[rows])[0])
    dealer = connect([bind], inflight_max=len(heads), context=None)
    begin_ns = time.perf_counter_ns() + 50_000_000
    due_ns = (arrivals.arrival_ns + begin_ns).tolist()
    done_ns = np.zeros(len(heads), np.int64)
    for number, rows in enumerate(arrivals.rows.tolist()):
        while time.perf_counter_ns() < due_ns[number]:
            if not _take(dealer, 0, done_ns):
                # libzmq's own thread sends and receives on this core: a loop that spins would starve it.
                time.sleep(POLL_S)
        dealer.send([heads[number], *tensors[rows]])
    while not done_ns.all():
        if not _take(dealer, LAST_REPLY_MS, done_ns):
            raise RuntimeError(f"{np.count_nonzero(done_ns == 0)} requests were not answered")
    dealer.close()
    found: Floats = (done_ns - np.array(due_ns)) / 1e3
    return found


def _take(dealer: Dealer, wait_ms: int, done_ns: npt.NDArray[np.int64]) -> bool:
    frames = dealer.receive(wait_ms)
    if frames is None:
        return False
    now_ns = time.perf_counter_ns()
    reply = decode_reply(frames)
    assert isinstance(reply, ScoresReply), reply
    done_ns[reply.request_id] = now_ns
    return True


def compared(load: float, number: int, measured_us: Floats, simulated_us: Floats) -> Sequence[dict[str, object]]:
    return [
        {
            "load": load,
            "round": number,
            "latency": name,
            "measured us": (real := float(np.quantile(measured_us, share))),
            "simulated us": (predicted := float(np.quantile(simulated_us, share))),
            "simulated / measured": predicted / real,
        }
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]


def medians(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    kinds = sorted({(str(row["load"]), str(row["latency"])) for row in rows})
    ratios = {
        kind: [
            float(str(row["simulated / measured"])) for row in rows if (str(row["load"]), str(row["latency"])) == kind
        ]
        for kind in kinds
    }
    return [
        {
            "load": load,
            "latency": name,
            "simulated / measured": float(np.median(found)),
            "least": min(found),
            "most": max(found),
        }
        for (load, name), found in ratios.items()
    ]


if __name__ == "__main__":
    main()

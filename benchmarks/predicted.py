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
from narsil_graph.simulation.arrivals import Arrivals, ClosedLoop, Sizes, mlperf, poisson_ns
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
LAST_REPLY_MS = 5_000
POLL_S = 30e-6
Floats = npt.NDArray[np.float64]


def main() -> None:
    options = machine.parser(__doc__).parse_args()
    report = machine.Report("predicted and measured latency: Poisson arrivals, sizes of 100 to 700 rows, ipc")
    model = load_model(machine.made(options.model))
    server_cpu, client_cpu = two_cpus()
    rounds, seconds = (1, 0.5) if options.quick else (3, 8.0)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="narsil-") as folder:
        bind = f"ipc://{folder}/predicted"
        with Served(options.model, bind, cpu=server_cpu), pinned(client_cpu):
            with Client(bind) as client:
                told = client.metadata().meta
            cost, ladder = costs_of(told["cost"]), BucketLadder(tuple(Bucket(*pair) for pair in told["buckets"]))
            around_us = around(bind, model.spec, cost, ladder)
            capacity = requests_per_s(cost, ladder, sizes := mlperf())
            for number in range(rounds):
                for load in LOADS:
                    rng = np.random.default_rng((SEED, number, round(load * 100)))
                    arrivals = drawn(rng, load * capacity, seconds, sizes, len(model.spec.sparse_features))
                    measured_us = round_trips_us(bind, model.spec, arrivals)
                    simulated_us = latencies_us(arrivals, cost, ladder) + around_us
                    rows += compared(load, number, measured_us, simulated_us)
    lone = f"{around_us:.0f} us around a lone request, measured at {TRICKLE:.0f} requests/s"
    title = f"capacity {capacity:.0f} requests/s by simulation; {lone}"
    report.table(title, rows)
    report.write(options.json)


def costs_of(told: dict[str, object]) -> CostModel:
    """The cost model that a server tells of in METADATA, as it was measured at its start."""
    buckets: list[dict[str, float]] = told["buckets"]  # type: ignore[assignment]
    return CostModel(
        {
            Bucket(int(each["rows"]), int(each["ids"])): LaunchCost(
                round(each["median_us"] * 1e3), round(each["p99_us"] * 1e3)
            )
            for each in buckets
        },
        request_ns=round(float(told["request_us"]) * 1e3),  # type: ignore[arg-type]
        reply_ns=round(float(told["reply_us"]) * 1e3),  # type: ignore[arg-type]
    )


def scheduler_of(cost: CostModel, ladder: BucketLadder) -> Scheduler:
    # A copy: the simulated server learns, and must not teach the next.
    own = CostModel(
        {bucket: LaunchCost(cost.launch_ns(bucket), cost.tail_ns(bucket)) for bucket in cost.buckets},
        request_ns=cost.request_ns,
        reply_ns=cost.reply_ns,
    )
    return Scheduler(Batcher(ladder=ladder, cost=own, mode=Mode.BATCH, queue_rows_max=1 << 16), own)


def requests_per_s(cost: CostModel, ladder: BucketLadder, sizes: Sizes) -> float:
    """What a closed loop gets through, simulated."""
    source = ClosedLoop(CLIENTS, 1.0, 5.0, sizes, ids_per_row=1)
    outcome = simulate(source, lambda: scheduler_of(cost, ladder), Place(shared_loop=True), seed=SEED)
    return len(outcome.requests) / 5.0


def around(bind: str, spec: ModelSpec, cost: CostModel, ladder: BucketLadder) -> float:
    """Microseconds that a request which meets an idle server spends outside what the cost model knows.

    Sockets, waking two sleeping cores, and a launch and a loop that find the caches cold: of a trickle of requests, by
    how much the median latency exceeds the simulated one.
    """
    rng = np.random.default_rng(SEED)
    arrivals = drawn(rng, TRICKLE, TRICKLE_S, mlperf(), len(spec.sparse_features))
    measured_us, simulated_us = round_trips_us(bind, spec, arrivals), latencies_us(arrivals, cost, ladder)
    return float(np.median(measured_us - simulated_us))


def drawn(rng: np.random.Generator, rate: float, seconds: float, sizes: Sizes, ids_per_row: int) -> Arrivals:
    arrival_ns = poisson_ns(rng, [(rate, seconds)])
    return Arrivals.drawn(arrival_ns, sizes(rng, len(arrival_ns)), ids_per_row=ids_per_row)


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


if __name__ == "__main__":
    main()

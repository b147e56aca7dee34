"""What launches and messages cost on this machine, measured before anyone is served."""

import time
from collections.abc import Sequence
from itertools import cycle, islice
from statistics import median
from uuid import uuid4

import numpy as np

from narsil_client.dealer import connect
from narsil_graph.build import EngineConfig
from narsil_graph.cost_file import CostFile
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.synthetic import one_hot_request
from narsil_graph.errors import Failure
from narsil_graph.machine_id import machine_id
from narsil_graph.model.weights import Model
from narsil_transport.admission import Admitted, ModelLimits, admit
from narsil_transport.buckets import Bucket
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.router import Route, Router
from narsil_transport.wire import InferRequest, StageTimes, decode_request, encode_request, encode_scores

BUCKET_SECONDS = 0.03
LAUNCHES_MIN = 5
# They find caches and clocks as no later one does.
DROPPED_LAUNCHES = 2
# A launch of so many medians waited for the machine: one of 0.11 ms was seen to take 76 ms where neighbours were busy.
# As the p99 of some dozen launches it would have every deadline refused.
STALLED = 10
# What rankers ask for.
REQUEST_ROWS = 100
# As many as a server under load finds after a launch.
MESSAGES, ROUNDS = 2, 12
# Until all that was sent lies in the receiving socket's queue: some hundred KiB over loopback.
ARRIVAL_S = 0.003
RECEIVE_MS = 1000


def measure(engine: Engine, model: Model, limits: ModelLimits) -> CostModel:
    """Costs of every captured bucket and of the messages of ``limits``: some 30 ms a bucket and 30 ms more.

    Launches of all buckets take turns in random order, as batches do: a launch finds the caches as another bucket's
    kernels and weights left them. Repeated launches of one bucket were up to a third faster than served ones.
    """
    buckets, rng = engine.captured_ladder.buckets, np.random.default_rng(0)
    taken_ns: dict[Bucket, list[int]] = {bucket: [] for bucket in buckets}
    end = time.perf_counter() + BUCKET_SECONDS * len(buckets)
    rounds = 0
    while time.perf_counter() < end or rounds < DROPPED_LAUNCHES + LAUNCHES_MIN:
        for place in rng.permutation(len(buckets)):
            taken_ns[buckets[place]].append(_launch_ns(engine, model, buckets[place], rng))
        rounds += 1
    request_ns, reply_ns = measure_messages(engine, model, limits)
    launches = {bucket: launch_cost(taken[DROPPED_LAUNCHES:]) for bucket, taken in taken_ns.items()}
    return CostModel(launches, request_ns=request_ns, reply_ns=reply_ns)


def measure_bucket(engine: Engine, model: Model, bucket: Bucket) -> LaunchCost:
    """The cost of one bucket that was captured late, its launches taking turns with those of all captured ones."""
    rng, taken_ns = np.random.default_rng(bucket.rows), list[int]()
    for other in islice(cycle(engine.captured_ladder.buckets), 2 * (DROPPED_LAUNCHES + LAUNCHES_MIN)):
        _launch_ns(engine, model, other, rng)
        taken_ns.append(_launch_ns(engine, model, bucket, rng))
    return launch_cost(taken_ns[DROPPED_LAUNCHES:])


def _launch_ns(engine: Engine, model: Model, bucket: Bucket, rng: np.random.Generator) -> int:
    """Filling, launching, awaiting and reading a full batch of one new id per bag; nothing may be in flight."""
    request = one_hot_request(model.spec, bucket.rows, rng)
    begin_ns = time.perf_counter_ns()
    engine.run(bucket, [(request, 0, bucket.rows)])
    return time.perf_counter_ns() - begin_ns


def launch_cost(taken_ns: Sequence[int]) -> LaunchCost:
    """Median and p99 of these times, both of them one of the times; what stalled is in neither.

    The p99 of fewer than 100 launches, which is that of most buckets, is the longest.
    """
    times = np.array(taken_ns)
    times = times[times < STALLED * np.median(times)]
    median_ns, p99_ns = np.percentile(times, 50, method="lower"), np.percentile(times, 99, method="higher")
    return LaunchCost(int(median_ns), int(p99_ns))


def measure_messages(engine: Engine, model: Model, limits: ModelLimits) -> tuple[int, int]:
    """Nanoseconds to receive, decode and admit one request of 100 rows (or the most that ``limits`` take), and to
    encode and send its scores: through a router of its own, each time after a launch, which leaves the caches to the
    loop as a served one does. Message upon message took a fifth of that.
    """
    rng, bucket = np.random.default_rng(0), engine.captured_ladder.buckets[-1]
    rows = min(REQUEST_ROWS, limits.rows_max)
    frames = encode_request(one_hot_request(model.spec, rows, rng))
    # Abstract, so that there is no file; unlike a process id, the name is no other container's.
    bind = f"ipc://@narsil-graph-{uuid4().hex}"
    rounds: list[tuple[float, float]] = []
    with Router(bind=bind, frames_bytes_max=max(map(len, frames)), receive_max=MESSAGES) as router:
        dealer = connect([bind], inflight_max=MESSAGES, context=None)
        try:
            dealer.wait_writable(RECEIVE_MS)
            for _ in range(ROUNDS):
                for _ in range(MESSAGES):
                    dealer.send(frames)
                time.sleep(ARRIVAL_S)
                _launch_ns(engine, model, bucket, rng)
                request_ns, admitted = _received_ns(router, limits)
                _launch_ns(engine, model, bucket, rng)
                rounds.append((request_ns, _answered_ns(router, admitted, model.version)))
                while dealer.receive(0) is not None:
                    pass
        finally:
            dealer.close()
    requests, replies = zip(*rounds, strict=True)
    return int(median(requests)), int(median(replies))


def _received_ns(router: Router, limits: ModelLimits) -> tuple[float, list[Admitted]]:
    """Nanoseconds a request, over all that have come, and what came."""
    if not router.wait(RECEIVE_MS):
        raise Failure("the messages of this machine's own socket did not come: their cost cannot be measured")
    begin_ns = time.perf_counter_ns()
    admitted: list[Admitted] = []
    for message in router.receive():
        request = decode_request(message.header, message.tensors)
        assert isinstance(request, InferRequest)
        outcome = admit(request, limits=limits, now_ns=begin_ns, route=message.route)
        assert isinstance(outcome, Admitted)
        admitted.append(outcome)
    return (time.perf_counter_ns() - begin_ns) / len(admitted), admitted


def _answered_ns(router: Router, admitted: Sequence[Admitted], version: str) -> float:
    """Nanoseconds a reply."""
    begin_ns = time.perf_counter_ns()
    times, scores = StageTimes(0.0, 0.0, 0.0, 0.0, 0.0), np.zeros(admitted[0].rows, np.float32)
    for entered in admitted:
        rows, route = entered.rows, entered.route
        assert isinstance(route, Route)
        router.send(route, encode_scores(entered.request.request_id, version, rows, rows, times, None, scores))
    return (time.perf_counter_ns() - begin_ns) / len(admitted)


def to_cost_file(cost: CostModel, *, model: Model, config: EngineConfig, threads: int) -> CostFile:
    """``cost`` as it stands, with whose it is."""
    return CostFile(
        model=model.spec.name,
        version=model.version,
        machine=machine_id(config.device),
        device=config.device,
        engine=config.engine,
        precision=config.precision.value,
        threads=threads,
        # A CUDA graph runs by itself; the eager forward launches its kernels one by one.
        shared_loop=config.device == "cpu" or config.engine == "eager",
        launches=tuple((bucket, LaunchCost(cost.launch_ns(bucket), cost.tail_ns(bucket))) for bucket in cost.buckets),
        request_us=cost.request_ns / 1e3,
        reply_us=cost.reply_ns / 1e3,
    )

"""Python's microseconds per request outside the launch: each stage on its own, then the whole spine.

python benchmarks/hot_path.py
"""

import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from benchmarks import machine
from narsil_client.dealer import Dealer, connect
from narsil_graph.commands import BUCKETS
from narsil_graph.engine.arena import Arena
from narsil_graph.engine.cpu_pipeline import table_bases
from narsil_graph.engine.engine import Engine, Launched
from narsil_graph.engine.launcher import Launcher, Slot
from narsil_graph.engine.scatter import Scatter
from narsil_graph.engine.synthetic import one_hot_request
from narsil_graph.in_flight import stage_times
from narsil_graph.limits import limits_of
from narsil_graph.metrics import Counters
from narsil_graph.model.spec import ModelSpec
from narsil_graph.model.weights import Model, load_model
from narsil_graph.schedule import Schedule
from narsil_graph.server import Server
from narsil_graph.serving import frame_bytes_max
from narsil_transport.admission import Admitted, admit
from narsil_transport.batcher import Batch, Batcher, Mode
from narsil_transport.buckets import Bucket, BucketLadder, parse_rows
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.router import Route, Router
from narsil_transport.wire import InferRequest, decode_request, encode_request, encode_scores

DEPTH = 64
# Until all that was sent lies in the receiving socket's queue.
ARRIVAL_S = 0.03
STAGES = ("receive", "decode", "admit", "add + take", "fill", "scatter + encode", "send")


class NoLaunch(Launcher):
    """Takes the plan's place: the same arenas, and a launch that computes nothing."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec

    def capture(self, bucket: Bucket) -> tuple[Slot, ...]:
        width, bases = len(self._spec.dense_features), table_bases(self._spec)
        arena = Arena(bucket, dense_width=width, id_bases=bases, lead=1)
        return (Slot(arena=arena, program=lambda: None, scores=np.zeros(bucket.rows, np.float32), kernels="none"),)


@dataclass(slots=True)
class Clock:
    """Nanoseconds by stage: ``lap`` gives those since the last one to a stage."""

    stages_ns: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    at_ns: int = field(default_factory=time.perf_counter_ns)

    def lap(self, stage: str) -> None:
        now_ns = time.perf_counter_ns()
        self.stages_ns[stage] += now_ns - self.at_ns
        self.at_ns = time.perf_counter_ns()


def main() -> None:
    options = machine.parser(__doc__).parse_args()
    report = machine.Report(f"hot path: {DEPTH} requests wait in the socket (ipc)")
    model = load_model(machine.made(options.model))
    rows = [measured(model, rows, rounds=3 if options.quick else 50) for rows in (1, 100)]
    report.table("us per request, median of rounds; 'whole' is the server's own step with nothing launched", rows)
    report.write(options.json)


def measured(model: Model, rows: int, *, rounds: int) -> dict[str, object]:
    ladder = BucketLadder.from_rows(parse_rows(BUCKETS["cpu"]), ids_per_row=4 * len(model.spec.sparse_features))
    engine = Engine(NoLaunch(model.spec), ladder)
    engine.capture_all(lambda bucket, captured: None)
    limits = limits_of(model.spec, rows_max=4096, ids_per_row_max=ladder.ids_max)
    # A launch of a microsecond a row, of which nothing is waited for.
    cost = CostModel({bucket: LaunchCost(1000 * bucket.rows, 1000 * bucket.rows) for bucket in ladder.buckets})
    batcher = Batcher(ladder=ladder, cost=cost, mode=Mode.BATCH, queue_rows_max=65536)
    rng = np.random.default_rng(machine.SEED)
    frames = [encode_request(one_hot_request(model.spec, rows, rng)) for _ in range(DEPTH)]
    taken_us: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="narsil-") as folder:
        bind, limit = f"ipc://{folder}/hot", frame_bytes_max(limits, ladder)
        with Router(bind=bind, frames_bytes_max=limit, receive_max=1024) as router:
            server = Server(
                router=router,
                engine=engine,
                schedule=Schedule(batcher, cost),
                limits=limits,
                model=model,
                counters=Counters(eager=False),
                verify=lambda bucket: None,
            )
            dealer = connect([bind], inflight_max=2 * DEPTH, context=None)
            for _ in range(rounds):
                queue(dealer, frames)
                for stage, stage_ns in stage_by_stage(server).items():
                    taken_us[stage].append(stage_ns / 1e3 / DEPTH)
                drop_replies(dealer)
                queue(dealer, frames)
                taken_us["whole"].append(whole_ns(server) / 1e3 / DEPTH)
                drop_replies(dealer)
            dealer.close()
    middle = {stage: float(np.median(values)) for stage, values in taken_us.items()}
    return {"rows": rows, **middle, "sum of stages": sum(middle[stage] for stage in STAGES)}


def queue(dealer: Dealer, messages: list[list[bytes]]) -> None:
    for frames in messages:
        while not dealer.send(frames):
            dealer.wait_writable(1000)
    time.sleep(ARRIVAL_S)


def drop_replies(dealer: Dealer) -> None:
    for _ in range(DEPTH):
        assert dealer.receive(1000) is not None, "every request is answered"


def stage_by_stage(server: Server) -> dict[str, int]:
    """The server's own calls in the server's order, but each for all that waits before the next begins."""
    now_ns = time.monotonic_ns()
    clock = Clock()
    assert server.router.wait(1000)
    arrived = [*server.router.receive()]
    clock.lap("receive")
    assert len(arrived) == DEPTH, f"{len(arrived)} of {DEPTH} requests had arrived"
    decoded = [decode_request(message.header, message.tensors) for message in arrived]
    clock.lap("decode")
    requests = [request for request in decoded if isinstance(request, InferRequest)]
    clock.at_ns = time.perf_counter_ns()
    outcomes = [
        admit(request, limits=server.limits, now_ns=now_ns, route=message.route)
        for request, message in zip(requests, arrived, strict=True)
    ]
    clock.lap("admit")
    admitted = [outcome for outcome in outcomes if isinstance(outcome, Admitted)]
    assert len(admitted) == DEPTH
    clock.at_ns = time.perf_counter_ns()
    batches: list[Batch] = []
    for request in admitted:
        server.batcher.add(request)
    while (batch := server.batcher.take(now_ns)) is not None:
        batches.append(batch)
    clock.lap("add + take")
    answer(server, batches, clock)
    return clock.stages_ns


def answer(server: Server, batches: list[Batch], clock: Clock) -> None:
    """Fill, and scatter and encode, and send, batch by batch."""
    scatter = Scatter()
    for batch in batches:
        slot = server.engine.captured[batch.bucket].slots[0]
        clock.at_ns = time.perf_counter_ns()
        slot.arena.fill([(piece.admitted.request, piece.begin, piece.end) for piece in batch.pieces])
        clock.lap("fill")
        launched = Launched(scores=slot.scores, fill_ns=0, launch_ns=0)
        replies = [
            (
                finished.admitted.route,
                encode_scores(
                    finished.admitted.request.request_id,
                    server.version,
                    batch.bucket.rows,
                    batch.rows,
                    stage_times(finished.admitted, launched, clock.at_ns, clock.at_ns),
                    None,
                    finished.scores,
                ),
            )
            for finished in scatter.split(batch, launched.scores)
        ]
        clock.lap("scatter + encode")
        for route, frames in replies:
            assert isinstance(route, Route)
            server.router.send(route, frames)
        clock.lap("send")


def whole_ns(server: Server) -> int:
    begin_ns = time.perf_counter_ns()
    # A turn may end before it has received everything.
    while server.step(0):
        pass
    return time.perf_counter_ns() - begin_ns


if __name__ == "__main__":
    main()

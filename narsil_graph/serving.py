"""From a configuration to a server that is ready: load, capture, check, bind."""

import gc
import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from narsil_graph.bind_check import check_libzmq
from narsil_graph.build import EngineConfig, build_engine, graph_memory
from narsil_graph.engine.engine import Engine
from narsil_graph.errors import UsageFailure
from narsil_graph.lazy_capture import tell_captured
from narsil_graph.limits import limits_of
from narsil_graph.listening import ListenConfig, opened
from narsil_graph.machine_id import machine_id
from narsil_graph.measure_cost import measure, measure_bucket
from narsil_graph.metrics import Counters
from narsil_graph.model.weights import Model, load_model
from narsil_graph.ready_file import tell_ready
from narsil_graph.replan import Replanner
from narsil_graph.schedule import Schedule
from narsil_graph.server import Server
from narsil_graph.slo import SloController
from narsil_graph.start_check import StartCheck
from narsil_graph.stop_signals import StopSignals
from narsil_graph.trace import Recorder, TraceHeader
from narsil_transport.admission import ModelLimits
from narsil_transport.batcher import Batcher, Mode, Settings
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel
from narsil_transport.header import REQUEST_HEADER_BYTES_MAX
from narsil_transport.router import Router


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Everything that `narsil-graph serve` can be told; the command line checks each value."""

    model: Path
    listen: ListenConfig
    engine: EngineConfig
    threads: int
    mode: Mode
    queue_rows_max: int
    request_rows_max: int
    allow_nonfinite: bool
    deadline_us: int | None
    linger_us: int
    slo_p99_us: int | None
    record: Path | None
    record_mib: int
    replan: bool
    lazy_capture: bool
    hot_buckets: tuple[int, ...]
    ready_file: Path | None
    dry_run: bool

    def __post_init__(self) -> None:
        if self.request_rows_max > self.queue_rows_max:
            raise UsageFailure(
                f"--request-rows-max {self.request_rows_max} exceeds --queue-rows-max {self.queue_rows_max}: "
                "such a request would always be refused"
            )
        if self.hot_buckets and not self.lazy_capture:
            raise UsageFailure("--hot-buckets are those captured first with --lazy-capture; without it all are")
        if self.linger_us and self.slo_p99_us is not None:
            raise UsageFailure("--slo-p99-us sets the linger itself: leave --linger-us out")
        unknown = sorted(set(self.hot_buckets) - set(self.engine.bucket_rows))
        if unknown:
            raise UsageFailure(f"--hot-buckets {unknown[0]} is not one of --buckets")

    def captured_first(self, ladder: BucketLadder) -> list[Bucket]:
        """The buckets that must be there before the first request, largest first; the largest covers them all."""
        if not self.lazy_capture:
            return list(reversed(ladder.buckets))
        first = {*self.hot_buckets, ladder.rows_max}
        return [bucket for bucket in reversed(ladder.buckets) if bucket.rows in first]


def ids_per_row(ladder: BucketLadder) -> int:
    """What the buckets have room for in every row of a full batch."""
    return ladder.ids_max // ladder.rows_max


def frame_bytes_max(limits: ModelLimits, ladder: BucketLadder) -> int:
    """The largest legal frame: dense rows, or 8-byte ids at as many a row as the buckets have room for."""
    return max(limits.rows_max * max(limits.dense_width * 4, ids_per_row(ladder) * 8), REQUEST_HEADER_BYTES_MAX)


def serve(config: ServeConfig) -> None:
    """Load, capture, check, measure, bind, say so, and serve until told to stop."""
    begin = time.perf_counter()
    check_libzmq()
    # Before anything that takes long, so that a wrong key is told at once.
    security = config.listen.security()
    model = load_model(config.model)
    engine = build_engine(model, config.engine)
    counters = Counters(eager=engine.launcher.eager)
    check = StartCheck(model, engine, config.engine.precision, counters)
    error = capture_first(config, engine, check)
    limits = limits_of(
        model.spec,
        rows_max=config.request_rows_max,
        ids_per_row_max=engine.ladder.ids_max,
        expanded_ids_max=config.request_rows_max * ids_per_row(engine.ladder),
        allow_nonfinite=config.allow_nonfinite,
    )
    cost = measure(engine, model, limits)
    router = config.listen.router(
        frames_bytes_max=frame_bytes_max(limits, engine.ladder),
        # Inline mode answers each request before it looks at the next.
        receive_max=1 if config.mode is Mode.INLINE else 1024,
        security=security,
    )
    with ExitStack() as closing:
        schedule = scheduled(config, engine, cost, model, closing)
        # What start-up made (200,000 objects of torch) is no garbage: a collection must not walk it between requests.
        gc.collect()
        gc.freeze()
        server = Server(
            router=router,
            engine=engine,
            schedule=schedule,
            limits=limits,
            model=model,
            counters=counters,
            verify=learning(engine, model, check, cost),
            memory=config.listen.memory_watch(),
            segments=config.listen.segments(router.frames_bytes_max),
        )
        opened(router)
        closing.callback(router.close)
        # A stop signal that follows the ready line at once is a drain already.
        with StopSignals(reloads=security is not None) as stop:
            tell_ready(ready_line(config, router, server, error, time.perf_counter() - begin), config.ready_file)
            if not config.dry_run:
                server.run(stop)


def learning(engine: Engine, model: Model, check: StartCheck, cost: CostModel) -> Callable[[Bucket], None]:
    """Checks a bucket that was captured late, and measures it."""

    def learn(bucket: Bucket) -> None:
        check(bucket)
        cost.add(bucket, measure_bucket(engine, model, bucket))

    return learn


def capture_first(config: ServeConfig, engine: Engine, check: StartCheck) -> float:
    """Capture and check the buckets that must be there before the first request; the largest error of their scores."""
    first = config.captured_first(engine.ladder)
    engine.prepare()
    for bucket in first:
        tell_captured(bucket, engine.capture(bucket))
    return max(check(bucket) for bucket in first)


def scheduled(config: ServeConfig, engine: Engine, cost: CostModel, model: Model, closing: ExitStack) -> Schedule:
    """The batcher and who watches it, as configured; ``closing`` ends the recording."""
    ladder = engine.captured_ladder
    slo = recorder = None
    if config.slo_p99_us is not None:
        try:
            slo = SloController(
                slo_p99_ns=config.slo_p99_us * 1000, cost=cost, ladder=ladder, slots=engine.launcher.slots_per_lane
            )
        except ValueError as error:
            raise UsageFailure(f"--slo-p99-us {config.slo_p99_us}: {error}") from None
    if config.record is not None:
        header = TraceHeader(
            model=model.spec.name,
            version=model.version,
            machine=machine_id(config.engine.device),
            ladder=engine.ladder,
            started_unix_ns=time.time_ns(),
        )
        began_ns = time.monotonic_ns()
        recorder = Recorder(config.record, header=header, size_mib_max=config.record_mib, began_ns=began_ns)
        closing.callback(recorder.close)
    return Schedule(
        Batcher(
            ladder=ladder,
            cost=cost,
            mode=config.mode,
            queue_rows_max=config.queue_rows_max,
            settings=Settings(linger_ns=config.linger_us * 1000) if slo is None else slo.settings,
        ),
        cost,
        lanes=engine.lanes,
        default_deadline_us=config.deadline_us or config.slo_p99_us,
        slo=slo,
        recorder=recorder,
        replanner=replanning(config, engine.ladder, model) if config.replan else None,
    )


def replanning(config: ServeConfig, ladder: BucketLadder, model: Model) -> Replanner:
    """Within --graph-memory, if that is given: graphs are never freed one by one, so all that ever were count."""
    budget_mib = config.engine.graph_memory_mib
    if budget_mib is None:
        return Replanner(ladder)
    return Replanner(
        ladder, fits=lambda every: graph_memory(model, config.engine, every).total_bytes <= budget_mib * 2**20
    )


def ready_line(config: ServeConfig, router: Router, server: Server, error: float, seconds: float) -> str:
    """Who serves what, how, and at what cost."""
    engine, model = config.engine, server.model
    graphs = f"kernels={engine.kernels.value} lanes={engine.lanes} slots={engine.slots} "
    return (
        f"ready {router.endpoint} model={model.spec.name} version={model.version} device={engine.device} "
        f"{graphs if engine.device == 'cuda' else ''}"
        f"engine={engine.engine} precision={engine.precision.value} threads={config.threads} mode={config.mode.value} "
        f"buckets={','.join(str(bucket.rows) for bucket in server.engine.captured_ladder.buckets)} "
        f"error={error:.1e} {server.counters.line()} seconds={seconds:.2f} mib={resident_mib():.0f}"
    )


def resident_mib() -> float:
    """The largest resident set so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

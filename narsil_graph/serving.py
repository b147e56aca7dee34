"""From a configuration to a server that is ready: load, capture, check, bind."""

import gc
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from narsil_graph.engine import fbgemm
from narsil_graph.engine.cpu_plan import CpuPlan
from narsil_graph.engine.eager import EagerForward
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.exact import exact_scores
from narsil_graph.engine.launcher import Launcher, Precision, Slot
from narsil_graph.engine.synthetic import one_hot_request
from narsil_graph.errors import Failure, UsageFailure
from narsil_graph.limits import limits_of
from narsil_graph.model.weights import Model, load_model
from narsil_graph.ready_file import tell_ready
from narsil_graph.server import Server, StopSignals
from narsil_transport.admission import ModelLimits
from narsil_transport.batcher import Batcher, Mode
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.header import REQUEST_HEADER_BYTES_MAX
from narsil_transport.router import BindError, Router

# The largest score error against float64 that a server starts with; measured errors are in benchmarks/RESULTS.md.
START_TOLERANCES = {Precision.F32: 1e-5, Precision.BF16: 5e-2, Precision.INT8: 2e-1}


# Enough to catch a wrong kernel; the doctor looks at far more.
SELF_CHECK_ROWS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Everything that `narsil-graph serve` can be told; the command line checks each value."""

    model: Path
    bind: str
    bucket_rows: tuple[int, ...]
    ids_per_row: int | None
    engine: str
    precision: Precision
    threads: int
    mode: Mode
    queue_rows_max: int
    request_rows_max: int
    allow_nonfinite: bool
    ready_file: Path | None
    dry_run: bool

    def __post_init__(self) -> None:
        if self.request_rows_max > self.queue_rows_max:
            raise UsageFailure(
                f"--request-rows-max {self.request_rows_max} exceeds --queue-rows-max {self.queue_rows_max}: "
                "such a request would always be refused"
            )


def build_engine(
    model: Model, *, engine: str, precision: Precision, bucket_rows: tuple[int, ...], ids_per_row: int | None
) -> Engine:
    """An engine with every bucket captured. ``ids_per_row`` ids a row is a bucket's room for multi-hot features."""
    fbgemm.load_library()
    features = len(model.spec.sparse_features)
    if ids_per_row is not None and ids_per_row < features:
        raise UsageFailure(f"--ids-per-row {ids_per_row} has no room for one id in each of {features} features")
    # Host memory is cheap and a lookup costs what it reads, not what it could hold.
    ladder = BucketLadder.from_rows(bucket_rows, ids_per_row=ids_per_row or 4 * features)
    launcher: Launcher = EagerForward(model) if engine == "eager" else CpuPlan(model, precision)
    built = Engine(launcher, ladder)
    built.capture(_tell)
    return built


def _tell(bucket: Bucket, slot: Slot, seconds: float) -> None:
    print(f"captured {bucket.rows:>5} rows in {seconds * 1e3:6.0f} ms  {slot.kernels}", file=sys.stderr)


def self_check(model: Model, engine: Engine, precision: Precision) -> float:
    """The largest score error against float64 over one random batch per bucket; a Failure if it is too large."""
    worst = 0.0
    for bucket in engine.ladder.buckets:
        request = one_hot_request(model.spec, min(bucket.rows, SELF_CHECK_ROWS), np.random.default_rng(bucket.rows))
        scores = engine.run(bucket, [(request, 0, request.rows)]).scores[: request.rows]
        error = float(np.abs(scores - exact_scores(model, request)).max())
        if not error <= START_TOLERANCES[precision]:
            raise Failure(
                f"bucket {bucket.rows} is {error:.1e} off the float64 scores, more than "
                f"{START_TOLERANCES[precision]:.0e}: run narsil-graph doctor, or serve with --precision f32"
            )
        worst = max(worst, error)
    return worst


def frame_bytes_max(limits: ModelLimits, ladder: BucketLadder) -> int:
    """The largest legal frame: dense rows, or 8-byte ids at as many a row as the buckets have room for."""
    ids_per_row = ladder.ids_max // ladder.rows_max
    return max(limits.rows_max * max(limits.dense_width * 4, ids_per_row * 8), REQUEST_HEADER_BYTES_MAX)


def serve(config: ServeConfig) -> None:
    """Load, capture, check, bind, say so, and serve until told to stop."""
    begin = time.perf_counter()
    model = load_model(config.model)
    engine = build_engine(
        model,
        engine=config.engine,
        precision=config.precision,
        bucket_rows=config.bucket_rows,
        ids_per_row=config.ids_per_row,
    )
    error = self_check(model, engine, config.precision)
    limits = limits_of(
        model.spec,
        rows_max=config.request_rows_max,
        ids_per_row_max=engine.ladder.ids_max,
        allow_nonfinite=config.allow_nonfinite,
    )
    router = Router(
        bind=config.bind,
        frames_bytes_max=frame_bytes_max(limits, engine.ladder),
        # Inline mode answers each request before it looks at the next.
        receive_max=1 if config.mode is Mode.INLINE else 1024,
    )
    # What start-up made (200,000 objects of torch) is no garbage: a collection must not walk it between requests.
    gc.collect()
    gc.freeze()
    batcher = Batcher(ladder=engine.ladder, mode=config.mode, queue_rows_max=config.queue_rows_max)
    try:
        router.open()
    except BindError as refused:
        raise UsageFailure(str(refused)) from None
    try:
        # A stop signal that follows the ready line at once is a drain already.
        with StopSignals() as stop:
            announce(config, router, engine, model, error, time.perf_counter() - begin)
            if not config.dry_run:
                Server(router=router, engine=engine, batcher=batcher, limits=limits, model=model).run(stop)
    finally:
        router.close()


def announce(config: ServeConfig, router: Router, engine: Engine, model: Model, error: float, seconds: float) -> None:
    """One line on standard output, and in the ready file: who serves what, how, and at what cost."""
    line = (
        f"ready {router.endpoint} model={model.spec.name} version={model.version} device=cpu engine={config.engine} "
        f"precision={config.precision.value} threads={config.threads} mode={config.mode.value} "
        f"buckets={','.join(str(bucket.rows) for bucket in engine.ladder.buckets)} "
        f"error={error:.1e} seconds={seconds:.2f} mib={resident_mib():.0f}"
    )
    tell_ready(line, config.ready_file)


def resident_mib() -> float:
    """The largest resident set so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

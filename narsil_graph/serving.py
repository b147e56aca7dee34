"""From a configuration to a server that is ready: load, capture, check, bind."""

import gc
import resource
import time
from contextlib import ExitStack

from narsil_graph.bind_check import check_libzmq
from narsil_graph.build import graph_memory
from narsil_graph.errors import UsageFailure
from narsil_graph.lazy_capture import LazyCapture
from narsil_graph.listening import opened
from narsil_graph.machine_id import machine_id
from narsil_graph.metrics import Counters
from narsil_graph.model.weights import Model, load_model
from narsil_graph.prepared import Prepared, ids_per_row, prepare
from narsil_graph.ready_file import tell_ready
from narsil_graph.replan import Replanner
from narsil_graph.replies import Replies
from narsil_graph.schedule import Schedule
from narsil_graph.serve_config import ServeConfig
from narsil_graph.server import Server
from narsil_graph.slo import SloController
from narsil_graph.stop_signals import StopSignals
from narsil_graph.trace import Recorder, TraceHeader
from narsil_graph.variants import Answers, Comparison, Variant
from narsil_graph.variants_config import VariantConfig, difference_of
from narsil_graph.variants_tally import Tally
from narsil_transport.admission import ModelLimits
from narsil_transport.batcher import Batcher, Mode, Settings
from narsil_transport.buckets import BucketLadder
from narsil_transport.header import REQUEST_HEADER_BYTES_MAX
from narsil_transport.router import Router


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
    models = loaded(config, model)
    main = prepare(config, model, config.engine)
    limits, ladder = main.limits, main.engine.ladder
    router = config.listen.router(
        frames_bytes_max=frame_bytes_max(limits, ladder),
        # Inline mode answers each request before it looks at the next.
        receive_max=1 if config.mode is Mode.INLINE else 1024,
        security=security,
    )
    with ExitStack() as closing:
        recorder = recording(config, main, closing)
        others = [
            further(config, given, prepare(config, other, given.engine), router, main.counters, recorder)
            for given, other in zip(config.variants, models, strict=True)
        ]
        # What start-up made (200,000 objects of torch) is no garbage: a collection must not walk it between requests.
        gc.collect()
        gc.freeze()
        server = Server(
            router=router,
            engine=main.engine,
            schedule=scheduled(config, main, recorder),
            limits=limits,
            model=model,
            counters=main.counters,
            verify=main.learn,
            memory=config.listen.memory_watch(),
            segments=config.listen.segments(router.frames_bytes_max),
            others=others,
        )
        opened(router)
        closing.callback(router.close)
        # A stop signal that follows the ready line at once is a drain already.
        with StopSignals(reloads=security is not None) as stop:
            tell_ready(ready_line(config, router, server, main.error, time.perf_counter() - begin), config.ready_file)
            if not config.dry_run:
                server.run(stop)


def loaded(config: ServeConfig, main: Model) -> list[Model]:
    """The variants' models, each file read once. A UsageFailure where one takes other requests than the main model."""
    models = {config.model: main}
    for given in config.variants:
        if given.model not in models:
            models[given.model] = load_model(given.model)
        difference = difference_of(main.spec, models[given.model].spec)
        if difference is not None:
            raise UsageFailure(f"--variant {given.name} cannot take the requests of {config.model}: {difference}")
    return [models[given.model] for given in config.variants]


def recording(config: ServeConfig, main: Prepared, closing: ExitStack) -> Recorder | None:
    """Whoever writes the trace, if asked for; ``closing`` ends it."""
    if config.record is None:
        return None
    header = TraceHeader(
        model=main.model.spec.name,
        version=main.model.version,
        machine=machine_id(config.engine.device),
        ladder=main.engine.ladder,
        started_unix_ns=time.time_ns(),
    )
    began_ns = time.monotonic_ns()
    recorder = Recorder(config.record, header=header, size_mib_max=config.record_mib, began_ns=began_ns)
    closing.callback(recorder.close)
    return recorder


def objective(config: ServeConfig, prepared: Prepared) -> SloController | None:
    """Whoever holds the objective, if there is one: a request waits for a launch of each other variant too."""
    if config.slo_p99_us is None:
        return None
    engine, splits = prepared.engine, sum(bool(given.share) for given in config.variants)
    try:
        return SloController(
            slo_p99_ns=config.slo_p99_us * 1000,
            cost=prepared.cost,
            ladder=engine.captured_ladder,
            slots=engine.launcher.slots_per_lane + splits,
        )
    except ValueError as error:
        raise UsageFailure(f"--slo-p99-us {config.slo_p99_us}: {error}") from None


def scheduled(config: ServeConfig, prepared: Prepared, recorder: Recorder | None) -> Schedule:
    """The batcher and who watches it, as configured."""
    slo = objective(config, prepared)
    return Schedule(
        queue(config, prepared, Settings(linger_ns=config.linger_us * 1000) if slo is None else slo.settings),
        prepared.cost,
        lanes=prepared.engine.lanes,
        default_deadline_us=config.deadline_us or config.slo_p99_us,
        slo=slo,
        recorder=recorder,
        replanner=replanning(prepared) if config.replan else None,
    )


def queue(config: ServeConfig, prepared: Prepared, settings: Settings) -> Batcher:
    """An empty batcher."""
    return Batcher(
        ladder=prepared.engine.captured_ladder,
        cost=prepared.cost,
        mode=config.mode,
        queue_rows_max=config.queue_rows_max,
        settings=settings,
    )


def further(
    config: ServeConfig,
    given: VariantConfig,
    prepared: Prepared,
    router: Router,
    replied: Counters,
    recorder: Recorder | None,
) -> Variant:
    """A variant beside the main one; ``replied`` counts the server's replies.

    Nobody watches a shadow's queue, but its launches keep to the cap that the objective gives.
    """
    tally, engine, model = Tally(given.name), prepared.engine, prepared.model
    answers: Answers
    if given.share:
        schedule = scheduled(config, prepared, recorder)
        answers = Replies(router, schedule=schedule, counters=replied, version=model.version, tally=tally)
    else:
        slo = objective(config, prepared)
        settings = Settings() if slo is None else slo.settings
        schedule = Schedule(queue(config, prepared, settings), prepared.cost, lanes=engine.lanes)
        answers = Comparison(schedule, tally)
    return Variant(
        model=model,
        engine=engine,
        schedule=schedule,
        counters=prepared.counters,
        lazy=LazyCapture(engine, prepared.learn),
        answers=answers,
        tally=tally,
        share=given.share,
        # What fails on a CPU has harmed nothing else; a CUDA context is lost for all.
        expendable=not given.share and given.engine.device == "cpu",
    )


def replanning(prepared: Prepared) -> Replanner:
    """Within --graph-memory, if that is given: graphs are never freed one by one, so all that ever were count."""
    ladder, budget_mib = prepared.engine.ladder, prepared.config.graph_memory_mib
    if budget_mib is None:
        return Replanner(ladder)
    return Replanner(
        ladder,
        fits=lambda every: graph_memory(prepared.model, prepared.config, every).total_bytes <= budget_mib * 2**20,
    )


def ready_line(config: ServeConfig, router: Router, server: Server, error: float, seconds: float) -> str:
    """Who serves what, how, and at what cost."""
    engine, model = config.engine, server.model
    variants = f"variants={','.join(given.line() for given in config.variants)} " if config.variants else ""
    graphs = f"kernels={engine.kernels.value} lanes={engine.lanes} slots={engine.slots} "
    return (
        f"ready {router.endpoint} model={model.spec.name} version={model.version} device={engine.device} "
        f"{graphs if engine.device == 'cuda' else ''}"
        f"engine={engine.engine} precision={engine.precision.value} threads={config.threads} mode={config.mode.value} "
        f"buckets={','.join(str(bucket.rows) for bucket in server.engine.captured_ladder.buckets)} "
        f"{variants}error={error:.1e} {server.counters.line()} seconds={seconds:.2f} mib={resident_mib():.0f}"
    )


def resident_mib() -> float:
    """The largest resident set so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

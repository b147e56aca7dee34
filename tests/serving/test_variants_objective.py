"""`--slo-p99-us` in a server of several models: what its launches are capped at."""

from pathlib import Path

from narsil_graph.build import EngineConfig
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.launcher import Precision
from narsil_graph.limits import limits_of
from narsil_graph.listening import ListenConfig
from narsil_graph.metrics import Counters
from narsil_graph.model.weights import Model
from narsil_graph.prepared import Prepared
from narsil_graph.serve_config import ServeConfig
from narsil_graph.serving import further, scheduled
from narsil_graph.start_check import StartCheck
from narsil_graph.variants_config import VariantConfig
from narsil_transport.batcher import Mode
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.router import Router
from tests.serving.scripted import Scripted

CPU = EngineConfig(device="cpu", bucket_rows=(2, 4, 8))


def variant(share: float, engine: EngineConfig = CPU) -> VariantConfig:
    return VariantConfig(name="B", model=Path("m"), engine=engine, share=share)


def config(*variants: VariantConfig, slo_p99_us: int | None) -> ServeConfig:
    return ServeConfig(
        model=Path("m"),
        listen=ListenConfig(
            bind="ipc://s",
            window=1,
            connections_max=1,
            zmq_io_threads=1,
            memory_max=None,
            insecure_bind=False,
            shm=False,
            curve_secret_key=None,
            authorized_clients=None,
        ),
        engine=CPU,
        threads=1,
        mode=Mode.BATCH,
        queue_rows_max=100,
        request_rows_max=100,
        allow_nonfinite=False,
        deadline_us=None,
        linger_us=0,
        slo_p99_us=slo_p99_us,
        record=None,
        record_mib=1,
        replan=False,
        lazy_capture=False,
        hot_buckets=(),
        ready_file=None,
        dry_run=False,
        variants=variants,
    )


def prepared(model: Model, *, row_ns: int) -> Prepared:
    """Of which a launch takes so long a row."""
    engine = Engine(Scripted(model.spec), CPU.ladder(len(model.spec.sparse_features)))
    for bucket in engine.ladder.buckets:
        engine.capture(bucket)
    counters = Counters(eager=False)
    return Prepared(
        model=model,
        config=CPU,
        engine=engine,
        counters=counters,
        check=StartCheck(model, engine, Precision.F32, counters),
        error=0.0,
        limits=limits_of(model.spec, rows_max=100, ids_per_row_max=engine.ladder.ids_max),
        cost=CostModel(
            {bucket: LaunchCost(row_ns * bucket.rows, row_ns * bucket.rows) for bucket in engine.ladder.buckets}
        ),
    )


def router() -> Router:
    return Router(bind="ipc://s", frames_bytes_max=1, receive_max=1)


def test_batches_leave_time_for_a_launch_of_each_other_variant(model: Model) -> None:
    main = prepared(model, row_ns=1000)
    # Two launches of 8 rows keep 16 us, three do not.
    caps = [
        scheduled(config(*variants, slo_p99_us=16), main, None).batcher.settings.rows_max
        for variants in ((), (variant(0.0),), (variant(0.1),))
    ]
    assert caps == [8, 8, 4]


def test_shadow_s_launches_keep_the_objective_of_the_request_that_comes_meanwhile(model: Model) -> None:
    slower = prepared(model, row_ns=2000)
    caps = [
        further(
            config(variant(0.0), slo_p99_us=slo_p99_us), variant(0.0), slower, router(), slower.counters, None
        ).schedule.batcher.settings.rows_max
        for slo_p99_us in (16, None)
    ]
    assert caps == [4, None]


def test_shadow_on_a_cpu_is_expendable_and_nothing_else(model: Model) -> None:
    cuda = EngineConfig(device="cuda", bucket_rows=(2, 4, 8))
    ready = prepared(model, row_ns=1000)
    expendable = [
        further(config(given, slo_p99_us=None), given, ready, router(), ready.counters, None).expendable
        for given in (variant(0.0), variant(0.1), variant(0.0, cuda))
    ]
    assert expendable == [True, False, False]

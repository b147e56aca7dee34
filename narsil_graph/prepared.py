"""A model on its way to be served: captured, checked and measured."""

from dataclasses import dataclass

from narsil_graph.build import EngineConfig, build_engine
from narsil_graph.engine.engine import Engine
from narsil_graph.lazy_capture import tell_captured
from narsil_graph.limits import limits_of
from narsil_graph.measure_cost import measure, measure_bucket
from narsil_graph.metrics import Counters
from narsil_graph.model.weights import Model
from narsil_graph.serve_config import ServeConfig
from narsil_graph.start_check import StartCheck
from narsil_transport.admission import ModelLimits
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model whose first buckets are captured, checked and measured. ``error`` is the largest of their scores."""

    model: Model
    config: EngineConfig
    engine: Engine
    counters: Counters
    check: StartCheck
    error: float
    limits: ModelLimits
    cost: CostModel

    def learn(self, bucket: Bucket) -> None:
        """Check a bucket that was captured late, and measure it."""
        self.check(bucket)
        self.cost.add(bucket, measure_bucket(self.engine, self.model, bucket))


def prepare(config: ServeConfig, model: Model, engine_config: EngineConfig) -> Prepared:
    """Capture and check the buckets that must be there before the first request, and measure them."""
    engine = build_engine(model, engine_config)
    counters = Counters(eager=engine.launcher.eager)
    check = StartCheck(model, engine, engine_config.precision, counters)
    error = capture_first(config, engine, check)
    limits = limits_of(
        model.spec,
        rows_max=config.request_rows_max,
        ids_per_row_max=engine.ladder.ids_max,
        expanded_ids_max=config.request_rows_max * ids_per_row(engine.ladder),
        allow_nonfinite=config.allow_nonfinite,
    )
    return Prepared(
        model=model,
        config=engine_config,
        engine=engine,
        counters=counters,
        check=check,
        error=error,
        limits=limits,
        cost=measure(engine, model, limits),
    )


def capture_first(config: ServeConfig, engine: Engine, check: StartCheck) -> float:
    """Capture and check the buckets that must be there before the first request; the largest error of their scores."""
    first = config.captured_first(engine.ladder)
    engine.prepare()
    for bucket in first:
        tell_captured(bucket, engine.capture(bucket))
    return max(check(bucket) for bucket in first)


def ids_per_row(ladder: BucketLadder) -> int:
    """What the buckets have room for in every row of a full batch."""
    return ladder.ids_max // ladder.rows_max

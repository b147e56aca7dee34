"""Everything that `narsil-graph serve` can be told."""

from dataclasses import dataclass
from pathlib import Path

from narsil_graph.build import EngineConfig
from narsil_graph.errors import UsageFailure
from narsil_graph.listening import ListenConfig
from narsil_graph.variants_config import VariantConfig
from narsil_transport.batcher import Mode
from narsil_transport.buckets import Bucket, BucketLadder


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
    variants: tuple[VariantConfig, ...] = ()

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

"""`narsil-graph bench profile`: where a request's time goes, and its launch's."""

import dataclasses
import gc
import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from narsil_graph.commands import DEMO_MODEL, MODEL_PATH, POSITIVE, engine_config, engine_options
from narsil_graph.commands.bench_options import check_folders
from narsil_graph.commands.curve import curve_options

if TYPE_CHECKING:
    from narsil_client.curve import Curve
    from narsil_graph.bench.profile import Profile
    from narsil_graph.build import EngineConfig

WARM_REQUESTS = 20
# A trace of so many is some ten MiB.
LAUNCHES_WATCHED_MAX = 100


@click.command(context_settings={"show_default": True})
@click.argument("model", type=MODEL_PATH, required=False)
@engine_options
@click.option("--rows", type=POSITIVE, default=100, help="Of each request, scored in the smallest bucket for them.")
@click.option("--threads", type=POSITIVE, default=1, envvar="NARSIL_THREADS", help="Threads of one forward.")
@click.option("--requests", type=POSITIVE, default=300, help="To time; so many again, at most 100, to watch.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the requests.")
@click.option("--connect", "endpoint", default=None, metavar="ENDPOINT",
              help="Take the stages from the replies of this server; the launch is not looked into.")  # fmt: skip
@curve_options
@click.option("--trace", type=MODEL_PATH, default=None, metavar="FILE", help="Write a trace for chrome://tracing.")
@click.option("--json", "json_path", type=MODEL_PATH, default=None, metavar="FILE", help="Also write the numbers.")
def profile(
    model: Path | None,
    rows: int,
    threads: int,
    requests: int,
    seed: int,
    endpoint: str | None,
    curve: "Curve | None",
    trace: Path | None,
    json_path: Path | None,
    **options: Any,
) -> None:
    """Attribute a request's time to stages, and its launch's time to operators or kernels.

    A server of MODEL, or of the bundled one, and its client run in one thread of this process.
    """
    from narsil_graph.errors import Failure, UsageFailure

    check_folders(json_path, trace)
    if endpoint is not None:
        _refuse({*options, "threads"})
        if model is not None or trace is not None:
            raise UsageFailure("--connect profiles a running server: it takes neither a MODEL nor --trace")
        found = _live(endpoint, curve, rows=rows, requests=requests, seed=seed)
    else:
        if curve is not None:
            raise UsageFailure("the keys are for --connect")
        found = _in_process(
            model or DEMO_MODEL, options, rows=rows, threads=threads, requests=requests, seed=seed, trace=trace
        )
    click.echo(found.text())
    if json_path is not None:
        try:
            json_path.write_text(json.dumps(found.to_dict(), indent=1))
        except OSError as error:
            raise Failure(f"cannot write {json_path}: {error.strerror}") from None


def _refuse(names: set[str]) -> None:
    """Raises UsageFailure where one of these options is given: a running server has chosen already."""
    from narsil_graph.errors import UsageFailure

    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in names and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageFailure(f"--connect profiles a running server: it takes no {parameter.opts[0]}")


def _live(endpoint: str, curve: "Curve | None", *, rows: int, requests: int, seed: int) -> "Profile":
    from narsil_graph.bench.profile import Profile
    from narsil_graph.bench.profile_live import live_stages

    return Profile.of(endpoint, rows, live_stages(endpoint, rows=rows, requests=requests, seed=seed, curve=curve))


def _in_process(
    path: Path, options: dict[str, Any], *, rows: int, threads: int, requests: int, seed: int, trace: Path | None
) -> "Profile":
    from narsil_graph import threads as thread_settings

    thread_settings.prepare(threads)
    import torch

    from narsil_graph.bench.profile import Profile
    from narsil_graph.bench.profile_ops import launch_ops
    from narsil_graph.bench.profile_spine import STAGES, spine
    from narsil_graph.build import build_engine
    from narsil_graph.lazy_capture import tell_captured
    from narsil_graph.model.weights import load_model

    thread_settings.pin_torch(threads)
    config = _for_rows(engine_config(options), rows)
    model = load_model(path)
    engine = build_engine(model, config)
    engine.capture_all(tell_captured)
    # As in a server: a collection must not walk what start-up made.
    gc.collect()
    gc.freeze()
    (captured,) = engine.captured.values()
    with spine(model, engine, rows=rows, seed=seed) as asked:
        for _ in range(WARM_REQUESTS):
            asked.ask(nullcontext)
        asked_us = [asked.ask(nullcontext) for _ in range(requests)]
        stages = {stage: [each[stage] for each in asked_us] for stage in STAGES}
        launch = launch_ops(
            lambda scope: asked.ask(scope)["launch"],
            device=torch.device(config.device),
            launches=min(requests, LAUNCHES_WATCHED_MAX),
            kernels=captured.slots[0].kernels,
            trace=trace,
        )
    subject = (
        f"{model.spec.name} version {model.version}, {config.device} {config.engine} {config.precision.value}, "
        f"bucket {config.bucket_rows[0]}, {threads} threads"
    )
    return Profile.of(subject, rows, stages, launch)


def _for_rows(config: "EngineConfig", rows: int) -> "EngineConfig":
    """With the bucket that a server would score such a request in, and no other."""
    from narsil_graph.errors import UsageFailure

    fitting = [size for size in config.bucket_rows if size >= rows]
    if not fitting:
        raise UsageFailure(f"--rows {rows} exceeds the largest bucket, {max(config.bucket_rows)} rows")
    return dataclasses.replace(config, bucket_rows=(min(fitting),))

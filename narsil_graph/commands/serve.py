"""`narsil-graph serve`: flag > environment > file > default."""

import difflib
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from narsil_graph.commands import (
    DEMO_MODEL,
    MODEL_PATH,
    POSITIVE,
    engine_config,
    engine_options,
    parse_bucket_rows,
)

if TYPE_CHECKING:
    from narsil_graph.listening import ListenConfig


def _read_config(context: click.Context, option: click.Parameter, path: Path | None) -> None:
    """Make the file's values the defaults; an unknown key is an error that names it."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise click.UsageError(f"cannot read --config {path}: {error.strerror}") from None
    except ValueError as error:
        raise click.UsageError(f"--config {path} is not TOML: {error}") from None
    known = {parameter.name or "" for parameter in context.command.params} - {"config"}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"--config {path} has the unknown key {key!r}{hint}")
        if isinstance(value, dict):
            raise click.UsageError(f"--config {path}: {key!r} is a table, want one value")
    lists = {parameter.name for parameter in context.command.params if parameter.multiple}
    context.default_map = {key: _as_texts(value) if key in lists else _as_text(value) for key, value in values.items()}


def _as_texts(value: Any) -> list[str]:
    return [str(each) for each in (value if isinstance(value, list) else [value])]


def _as_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


@click.command(context_settings={"show_default": True})
@click.option("--config", type=MODEL_PATH, is_eager=True, expose_value=False, callback=_read_config,
              envvar="NARSIL_CONFIG", help="A TOML file whose keys are these options' names.")  # fmt: skip
@click.option("--model", type=MODEL_PATH, default=DEMO_MODEL, envvar="NARSIL_MODEL",
              help="The model file; the default is the bundled demo.", show_default=False)  # fmt: skip
@click.option("--bind", default="tcp://127.0.0.1:5555", envvar="NARSIL_BIND", help="The ZeroMQ endpoint.")
@click.option("--window", type=POSITIVE, default=256, envvar="NARSIL_WINDOW",
              help="Requests that one client may leave unanswered.")  # fmt: skip
@click.option("--connections-max", type=POSITIVE, default=1000, envvar="NARSIL_CONNECTIONS_MAX",
              help="Connections at a time; one beyond is closed at once.")  # fmt: skip
@click.option("--memory-max", type=POSITIVE, default=None, envvar="NARSIL_MEMORY_MAX", metavar="MIB",
              help="Resident memory at which all connections are cut; at 90% requests are refused.")  # fmt: skip
@click.option("--zmq-io-threads", type=click.IntRange(1, 64), default=1, envvar="NARSIL_ZMQ_IO_THREADS",
              help="libzmq's threads; a connection stays on one, and CURVE's arithmetic with it.")  # fmt: skip
@click.option("--curve-secret-key", type=MODEL_PATH, default=None, envvar="NARSIL_CURVE_SECRET_KEY",
              help="Encrypt: the server's NAME.key_secret, from keygen.")  # fmt: skip
@click.option("--authorized-clients", type=click.Path(path_type=Path, file_okay=False), default=None,
              envvar="NARSIL_AUTHORIZED_CLIENTS",
              help="With it: a folder with each allowed client's NAME.key, read again on SIGHUP.")  # fmt: skip
@click.option("--insecure-bind", is_flag=True, envvar="NARSIL_INSECURE_BIND",
              help="Let --bind be reached from other machines without CURVE.")  # fmt: skip
@click.option("--shm", is_flag=True, envvar="NARSIL_SHM",
              help="Let clients leave tensors in shared memory; wants an ipc:// endpoint.")  # fmt: skip
@engine_options
@click.option("--threads", type=POSITIVE, default=1, envvar="NARSIL_THREADS", help="Threads of one forward: latency.")
@click.option("--workers", type=POSITIVE, default=1, envvar="NARSIL_WORKERS",
              help="Processes, each pinned and with its own endpoint: throughput.")  # fmt: skip
@click.option("--mode", type=click.Choice(["batch", "worker", "inline"]), default="batch", envvar="NARSIL_MODE")
@click.option("--queue-rows-max", type=POSITIVE, default=65536, envvar="NARSIL_QUEUE_ROWS_MAX",
              help="Rows that may wait before requests are refused.")  # fmt: skip
@click.option("--request-rows-max", type=POSITIVE, default=4096, envvar="NARSIL_REQUEST_ROWS_MAX",
              help="Rows of the largest request; above the largest bucket it is split.")  # fmt: skip
@click.option("--allow-nonfinite", is_flag=True, envvar="NARSIL_ALLOW_NONFINITE",
              help="Score NaN and infinite dense values instead of refusing them.")  # fmt: skip
@click.option("--deadline-us", type=POSITIVE, default=None, envvar="NARSIL_DEADLINE_US",
              help="The budget of requests that name none.")  # fmt: skip
@click.option("--linger-us", type=click.IntRange(min=0), default=0, envvar="NARSIL_LINGER_US",
              help="How long a request may wait for a fuller bucket while no deadline is endangered.")  # fmt: skip
@click.option("--slo-p99-us", type=POSITIVE, default=None, envvar="NARSIL_SLO_P99_US",
              help="Adjust linger, batch cap and admission to keep the p99 latency below this.")  # fmt: skip
@click.option("--record", type=MODEL_PATH, default=None, envvar="NARSIL_RECORD",
              help="Write a trace of sizes, times and outcomes, no features, for plan and simulate.")  # fmt: skip
@click.option("--record-mib", type=POSITIVE, default=64, envvar="NARSIL_RECORD_MIB", help="The trace's largest size.")
@click.option("--replan", is_flag=True, envvar="NARSIL_REPLAN",
              help="Re-plan the buckets from live traffic, and capture the better ones when idle.")  # fmt: skip
@click.option("--lazy-capture", is_flag=True, envvar="NARSIL_LAZY_CAPTURE",
              help="Serve once the largest and the hot buckets are captured; the others when idle.")  # fmt: skip
@click.option("--hot-buckets", default=None, envvar="NARSIL_HOT_BUCKETS", callback=parse_bucket_rows,
              help="With --lazy-capture: batch sizes to capture before the first request.")  # fmt: skip
@click.option("--ready-file", type=MODEL_PATH, default=None, envvar="NARSIL_READY_FILE",
              help="Written with the ready line once requests are served.")  # fmt: skip
@click.option("--variant", multiple=True, envvar="NARSIL_VARIANT", metavar="NAME=MODEL[,precision=P][,kernels=K]",
              help="A further model that takes the same requests; the one of --model is A.")  # fmt: skip
@click.option("--shadow", multiple=True, envvar="NARSIL_SHADOW", metavar="NAME",
              help="Let this variant score what A has answered, when nothing waits, and compare.")  # fmt: skip
@click.option("--split", multiple=True, envvar="NARSIL_SPLIT", metavar="NAME=PERCENT%",
              help="Let this variant score so many of the requests in A's place, by their key.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Load, capture, check, bind, and exit 0.")
def serve(workers: int, **options: Any) -> None:
    """Serve a model over ZeroMQ until SIGTERM or SIGINT."""
    from narsil_graph import threads

    # A watcher must not take an earlier run's file for this one's.
    if options["ready_file"] is not None:
        options["ready_file"].unlink(missing_ok=True)
    listen = listen_config(options)
    texts = {name: options.pop(name) for name in ("variant", "shadow", "split")}
    if workers > 1:
        from narsil_graph.workers import supervise

        supervise(click.get_current_context(), workers)
        return
    threads.prepare(options["threads"])
    from narsil_graph.serve_config import ServeConfig
    from narsil_graph.serving import serve as run
    from narsil_graph.variants_config import parse_variants
    from narsil_transport.batcher import Mode

    threads.pin_torch(options["threads"])
    options["mode"] = Mode(options["mode"])
    options["hot_buckets"] = options["hot_buckets"] or ()
    options["engine"] = engine_config(options)
    options["variants"] = parse_variants(
        texts["variant"], shadows=texts["shadow"], splits=texts["split"], engine=options["engine"]
    )
    run(ServeConfig(listen=listen, **options))


def listen_config(options: dict[str, Any]) -> "ListenConfig":
    """The socket's own of ``options``, which are removed from it. Raises UsageFailure where they contradict."""
    from narsil_graph.listening import ListenConfig

    return ListenConfig(**{field.name: options.pop(field.name) for field in fields(ListenConfig)})

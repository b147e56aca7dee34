"""`narsil-graph bench load`: what a server makes of a load."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from narsil_graph.commands import MODEL_PATH, POSITIVE
from narsil_graph.commands.bench_options import POSITIVE_NUMBER, RATE, Finite, ProgressLine, check_files, write_report
from narsil_graph.commands.curve import curve_options
from narsil_graph.errors import Failure, UsageFailure

if TYPE_CHECKING:
    from narsil_client.curve import Curve
    from narsil_graph.bench.find_max import Found
    from narsil_graph.bench.load import Loader
    from narsil_graph.bench.load_result import LoadResult
    from narsil_graph.bench.requests import RequestPool
    from narsil_graph.bench.subject import Subject
    from narsil_graph.model.spec import ModelSpec
    from narsil_graph.simulation.arrivals import Arrivals

SECONDS, CLOSED_IN_FLIGHT, SIZES = 10.0, 16, "mlperf"
# Of an open loop: more wait here than any server by its defaults takes of one client.
OPEN_IN_FLIGHT_MAX = 4096
# Drawn before the first is sent, and logged: a gigabyte.
REQUESTS_MAX = 10_000_000


@click.command(context_settings={"show_default": True})
@click.argument("endpoints", nargs=-1, required=True, metavar="ENDPOINT...")
@click.option("--arrivals", type=click.Choice(["poisson", "fixed", "bursty", "trace", "closed"]), default="poisson",
              help="When requests are sent; closed: so many are always under way.")  # fmt: skip
@click.option("--rate", type=RATE, default=None, help="Requests per second: poisson, fixed and bursty.")
@click.option("--trace", type=MODEL_PATH, default=None,
              help="Of serve --record, for trace: times, sizes, budgets and priorities are as recorded.")  # fmt: skip
@click.option("--rate-scale", type=POSITIVE_NUMBER, default=None, show_default="1",
              help="So many times the trace's rate.")  # fmt: skip
@click.option("--in-flight", type=POSITIVE, default=None, show_default=f"{CLOSED_IN_FLIGHT} of closed",
              help="Requests under way: always, of closed; at most, of the others.")  # fmt: skip
@click.option("--sizes", default=None, show_default=SIZES, metavar="KIND",
              help="Rows of drawn requests: constant:ROWS, lognormal:MEDIAN:SIGMA[:MAX] or mlperf.")  # fmt: skip
@click.option("--seconds", type=POSITIVE_NUMBER, default=None, show_default=f"{SECONDS:g}; all of a trace",
              help="How long it lasts; with --find-max each trial.")  # fmt: skip
@click.option("--warm-up-s", type=Finite(min=0), default=1.0, help="Before it, not counted.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="The same seed asks the same at the same times.")
@click.option("--deadline-us", type=POSITIVE, default=None, 
              help="The budget that each request names, in place of a recorded one.")  # fmt: skip
@click.option("--timeout", "timeout_s", type=Finite(min=0.001), default=5.0,
              help="Seconds until a request counts as failed.")  # fmt: skip
@click.option("--connections", type=POSITIVE, default=1, help="To each endpoint.")
@click.option("--find-max", is_flag=True, help="Find the highest rate that meets --slo-p99-us.")
@click.option("--slo-p99-us", type=POSITIVE, default=None, help="Within this 99% of all requests are to be answered.")
@click.option("--server-pid", "pids", type=POSITIVE, multiple=True, show_default="who listens at a local ENDPOINT",
              help="Count this process' CPU time; may repeat.")  # fmt: skip
@curve_options
@click.option("--json", "report", type=MODEL_PATH, default=None, help="Write the numbers to this file, too.")
@click.option("--png", type=MODEL_PATH, default=None, help="Draw percentiles, time line and stages.")
def load(
    endpoints: tuple[str, ...], curve: "Curve | None", report: Path | None, png: Path | None, **options: Any
) -> None:
    """Send requests to the servers at ENDPOINT... and print how late the answers come.

    Latency counts from when a request was to be sent, so that waiting for a slow server counts as well.
    """
    from narsil_graph.bench.listeners import listeners
    from narsil_graph.bench.narsil import common_spec, narsil_subject

    _check(options, report, png)
    given = options["pids"]
    options["pids"] = given or listeners(*endpoints)
    trace = _trace(options)
    spec = common_spec(endpoints, curve=curve)
    in_flight = options["in_flight"] or (CLOSED_IN_FLIGHT if options["arrivals"] == "closed" else OPEN_IN_FLIGHT_MAX)
    subject = narsil_subject(
        endpoints * options["connections"],
        in_flight,
        timeout_s=options["timeout_s"],
        deadline_us=options["deadline_us"],
        curve=curve,
    )
    try:
        with ProgressLine() as line:
            loader = _loader(subject, line, _pool(spec, trace, options), options)
            found = _searched(loader, line, options) if options["find_max"] else None
            result = found.result if found is not None else _loaded(loader, in_flight, trace, options)
    finally:
        subject.close()
    if found is not None and found.rate is not None:
        click.echo(f"at most {found.rate:.1f} requests/s with a p99 of {options['slo_p99_us']} us")
    if result is not None:
        click.echo(result.text())
    _write(loader, found, result, report, png, options | {"endpoints": endpoints})
    if result is not None and result.latency is not None and given and result.cpu_s_per_million_rows is None:
        raise Failure("a process of --server-pid has ended meanwhile, and its CPU time was not counted")
    if found is not None and found.rate is None:
        raise Failure(f"no rate that was tried has a p99 of {options['slo_p99_us']} us")
    if result is not None and result.latency is None:
        raise Failure("no request was answered")


def _check(options: dict[str, Any], report: Path | None, png: Path | None) -> None:
    """What would be found out only after the load. Raises UsageFailure."""
    from narsil_graph.bench.cpu_seconds import cpu_seconds

    kind, timed = options["arrivals"], options["arrivals"] in ("poisson", "fixed", "bursty")
    if options["slo_p99_us"] is not None and not options["find_max"]:
        raise UsageFailure("--slo-p99-us is for --find-max")
    if options["find_max"] and (not timed or options["slo_p99_us"] is None or options["rate"] is not None):
        raise UsageFailure("--find-max wants --slo-p99-us, arrivals poisson, fixed or bursty, and no --rate")
    if not options["find_max"] and timed != (options["rate"] is not None):
        raise UsageFailure(f"--arrivals {kind} wants {'a' if timed else 'no'} --rate")
    requests = (options["rate"] or 0.0) * (options["seconds"] or SECONDS)
    if requests > REQUESTS_MAX:
        raise UsageFailure(f"want at most {REQUESTS_MAX:,} requests, and --rate and --seconds make {requests:,.0f}")
    if (kind == "trace") != (options["trace"] is not None):
        raise UsageFailure("--arrivals trace wants a --trace, and the others none")
    for name, ours in (("sizes", kind != "trace"), ("rate_scale", kind == "trace")):
        if options[name] is not None and not ours:
            raise UsageFailure(f"--arrivals {kind} wants no --{name.replace('_', '-')}")
    cpu_seconds(options["pids"])
    check_files(report, png)


def _trace(options: dict[str, Any]) -> "Arrivals | None":
    from narsil_graph.bench.load import recorded

    path = options["trace"]
    return None if path is None else recorded(path, options["rate_scale"] or 1.0, options["seconds"])


def _pool(spec: "ModelSpec", trace: "Arrivals | None", options: dict[str, Any]) -> "RequestPool":
    from narsil_graph.bench.requests import RequestPool
    from narsil_graph.simulation.arrivals import parse_sizes

    if trace is not None:
        return RequestPool.recorded(spec, trace, options["seed"])
    return RequestPool(spec, parse_sizes(options["sizes"] or SIZES), options["seed"])


def _loader(subject: "Subject", line: "ProgressLine", pool: "RequestPool", options: dict[str, Any]) -> "Loader":
    from narsil_graph.bench.load import Loader
    from narsil_graph.bench.progress import Watched

    watched = Watched(subject, line.show) if line.shown else subject
    named = {name: options[name] for name in ("seed", "warm_up_s", "timeout_s", "pids")}
    return Loader(watched, pool, **named)


def _searched(loader: "Loader", line: "ProgressLine", options: dict[str, Any]) -> "Found":
    return loader.find_max(options["arrivals"], options["slo_p99_us"], options["seconds"] or SECONDS, line.tell)


def _loaded(loader: "Loader", in_flight: int, trace: "Arrivals | None", options: dict[str, Any]) -> "LoadResult":
    from narsil_graph.bench.load import drawn

    if trace is not None:
        return loader.recorded(trace.arrival_ns)
    seconds = options["seconds"] or SECONDS
    if options["arrivals"] == "closed":
        return loader.closed(in_flight, seconds)
    return loader.open(drawn(options["arrivals"], options["rate"]), seconds)


def _write(
    loader: "Loader",
    found: "Found | None",
    result: "LoadResult | None",
    report: Path | None,
    png: Path | None,
    options: dict[str, Any],
) -> None:
    if report is not None:
        told = {
            "result": None if result is None else result.to_dict(),
            "find_max": None if found is None else found.to_dict(),
        }
        write_report(report, options, told)
    if png is not None:
        from narsil_graph.bench.load_plot import plot

        plot(loader.log, png)

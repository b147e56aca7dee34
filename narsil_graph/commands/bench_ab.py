"""`narsil-graph bench ab`: whether B is faster than A, and whether it answers the same."""

import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from narsil_graph.commands import DEMO_MODEL, MODEL_PATH, POSITIVE
from narsil_graph.commands.bench_options import POSITIVE_NUMBER, RATE, Finite, ProgressLine, check_files, write_report
from narsil_graph.commands.curve import curve_options

if TYPE_CHECKING:
    from narsil_client.curve import Curve

SHARE = Finite(min=0, max=1, min_open=True, max_open=True)


@click.command(context_settings={"show_default": True})
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--model", type=MODEL_PATH, default=DEMO_MODEL, show_default=False,
              help="What serve: and adapter: serve where they name none; the default is the bundled demo.")  # fmt: skip
@click.option("--in-flight", type=POSITIVE, default=4, help="Requests always under way, without --rate.")
@click.option("--rate", type=RATE, default=None, help="Poisson arrivals per second instead, an open loop.")
@click.option("--sizes", default="constant:100", metavar="KIND",
              help="Rows of requests: constant:ROWS, lognormal:MEDIAN:SIGMA[:MAX] or mlperf.")  # fmt: skip
@click.option("--seconds", type=POSITIVE_NUMBER, default=60.0, help="In all, start-ups and A against A included.")
@click.option("--block-ms", type=POSITIVE, default=250, help="How long A, or B, is asked at a time.")
@click.option("--starts", type=POSITIVE, default=1,
              help="Start the servers so often; from 6 on the intervals have how starts differ.")  # fmt: skip
@click.option("--pin/--no-pin", default=True, help="Keep the first processor for asking, the others for servers.")
@click.option("--margin", type=SHARE, default=0.01, help="So far A may be from A for sure.")
@click.option("--resolution", type=SHARE, default=0.05, help="So far A may be from A in doubt.")
@click.option("--fail-if", "conditions", multiple=True, metavar="CONDITION",
              help="Exit with 1 if surely so: 'p99 > 1.05', 'score_max_diff > 1e-5'; may repeat.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of requests, orders and resamples.")
@curve_options
@click.option("--json", "report", type=MODEL_PATH, default=None, help="Write the numbers to this file, too.")
@click.option("--png", type=MODEL_PATH, default=None, help="Draw intervals, rounds and latency curves.")
def ab(a: str, b: str, curve: "Curve | None", report: Path | None, png: Path | None, **options: Any) -> None:
    """Compare two servers, A and B, in short blocks that take turns, after A with itself.

    Each is tcp://HOST:PORT or ipc://PATH, or several of these with commas between, 'serve: OPTIONS', a FILE.toml for
    serve, or adapter:MODULE[:MODEL]. Exits with 0, with 1 where a --fail-if holds, or with 3 where that, or without one
    the p50, is too noisy to say.
    """
    from narsil_graph.bench.ab_report import Verdict
    from narsil_graph.bench.blocks import Load
    from narsil_graph.bench.comparison import Plan, compare
    from narsil_graph.bench.fail_if import parse_condition
    from narsil_graph.bench.variants import parse_variant
    from narsil_graph.bench.verdict import Tolerance
    from narsil_graph.simulation.arrivals import parse_sizes

    check_files(report, png)
    variants = [parse_variant(text, options["model"], curve=curve) for text in (a, b)]
    conditions = [parse_condition(text) for text in options["conditions"]]
    plan = Plan(
        load=Load(options["in_flight"], options["rate"], options["block_ms"] / 1000),
        sizes=parse_sizes(options["sizes"]),
        seed=options["seed"],
        seconds=options["seconds"],
        starts=options["starts"],
        pin=options["pin"],
    )
    with ProgressLine() as line, _ended_by_sigterm():
        check, found = compare(variants[0], variants[1], plan, line.show)
    tolerance = Tolerance(margin=options["margin"], resolution=options["resolution"])
    verdict = Verdict.of(check, found, tolerance, conditions, options["seed"])
    click.echo(f"A: {a}\nB: {b}\n{verdict.text()}")
    if report is not None:
        write_report(report, {"a": a, "b": b} | options, {"result": verdict.to_dict()})
    if png is not None:
        from narsil_graph.bench.ab_plot import plot

        plot(verdict, found, png)
    sys.exit(verdict.exit_code)


@contextmanager
def _ended_by_sigterm() -> Generator[None]:
    """SIGTERM unwinds, as SIGINT does: what was started has to be stopped."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""`narsil-graph simulate`: what a server would make of this traffic."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from narsil_graph.commands import MODEL_PATH, POSITIVE, parse_bucket_rows
from narsil_graph.errors import UsageFailure

if TYPE_CHECKING:
    from narsil_graph.cost_file import CostFile
    from narsil_graph.simulation.arrivals import Arrivals, ClosedLoop
    from narsil_graph.simulation.simulator import Scheduler
    from narsil_graph.trace import Trace
    from narsil_transport.buckets import BucketLadder

POSITIVE_NUMBER = click.FloatRange(min=0, min_open=True)


@click.command(context_settings={"show_default": True})
@click.option("--cost", type=MODEL_PATH, required=True, help="What launches cost: of doctor --save-cost.")
@click.option("--trace", type=MODEL_PATH, default=None, help="Recorded traffic: of serve --record.")
@click.option("--any-machine", is_flag=True, help="Take costs of another machine than the trace's.")
@click.option("--rate-scale", type=POSITIVE_NUMBER, default=1.0, help="So many times the trace's rate.")
@click.option("--arrivals", type=click.Choice(["poisson", "bursty", "closed"]), default=None,
              help="Drawn traffic, instead of a trace.")  # fmt: skip
@click.option("--rate", type=POSITIVE_NUMBER, default=None, help="Requests per second, poisson and bursty.")
@click.option("--seconds", type=POSITIVE_NUMBER, default=10.0, help="How long drawn traffic lasts.")
@click.option("--sizes", default="mlperf", metavar="KIND",
              help="Rows of drawn requests: constant:ROWS, lognormal:MEDIAN:SIGMA[:MAX] or mlperf.")  # fmt: skip
@click.option("--clients", type=POSITIVE, default=16, help="Of a closed loop: requests under way at most.")
@click.option("--think-us", type=POSITIVE_NUMBER, default=1.0, help="Of a closed loop: a client's mean pause.")
@click.option("--deadline-us", type=POSITIVE, default=None, help="The budget of requests that have none.")
@click.option("--lanes", type=POSITIVE, default=1, help="Streams of launches; on a CPU as many processes.")
@click.option("--slots", type=POSITIVE, default=2, help="Launches that a lane on cuda takes before one is read.")
@click.option("--buckets", default=None, callback=parse_bucket_rows, show_default="those of the cost file",
              help="The ladder of batch sizes.")  # fmt: skip
@click.option("--policy", type=click.Choice(["cost", "timeout"]), default="cost",
              help="The server's batcher, or a fixed timeout and the largest bucket.")  # fmt: skip
@click.option("--timeout-us", type=click.IntRange(min=0), default=1000, help="Of --policy timeout.")
@click.option("--linger-us", type=click.IntRange(min=0), default=0, help="As serve has it.")
@click.option("--slo-p99-us", type=POSITIVE, default=None, help="As serve has it.")
@click.option("--queue-rows-max", type=POSITIVE, default=65536, help="As serve has it.")
@click.option("--jitter/--no-jitter", default=True, help="Draw launch times between median and p99, or all the median.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="The same seed gives the same numbers.")
@click.option("--plot", type=MODEL_PATH, default=None, help="Also draw a picture.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def simulate(cost: Path, trace: Path | None, plot: Path | None, as_json: bool, **options: Any) -> None:
    """Run the server's scheduler on virtual time and print throughput, latencies and waste."""
    from narsil_graph.cost_file import load_cost
    from narsil_graph.simulation import report
    from narsil_graph.simulation.simulator import Place
    from narsil_graph.simulation.simulator import simulate as run
    from narsil_graph.trace import read_trace

    costs = load_cost(cost)
    recorded = None if trace is None else read_trace(trace)
    if recorded is not None:
        costs.check(recorded.header.version, None if options["any_machine"] else recorded.header.machine)
    ladder = _ladder(costs, options["buckets"])
    source = _source(recorded, ladder, options)
    place = Place(
        shared_loop=costs.shared_loop, lanes=options["lanes"], slots=options["slots"], jitter=options["jitter"]
    )
    outcome = run(source, _schedulers(costs, ladder, options), place, seed=options["seed"])
    summary = report.summarise(outcome)
    if plot is not None:
        report.plot(outcome, plot)
    click.echo(json.dumps(summary.to_dict(), indent=1) if as_json else report.text_of(summary))


def _ladder(costs: "CostFile", rows: tuple[int, ...] | None) -> "BucketLadder":
    from narsil_transport.buckets import BucketLadder

    largest = costs.ladder.buckets[-1]
    return costs.ladder if rows is None else BucketLadder.from_rows(rows, ids_per_row=largest.ids // largest.rows)


def _source(trace: "Trace | None", ladder: "BucketLadder", options: dict[str, Any]) -> "Arrivals | ClosedLoop":
    """What arrives. Drawn requests have one id per row, for the costs are of launches, whatever they hold."""
    import numpy as np

    from narsil_graph.simulation import arrivals

    kind, rate = options["arrivals"], options["rate"]
    # As serve has it: what is promised is also what a request may take.
    deadline_us = options["deadline_us"] or options["slo_p99_us"] or 0
    if (trace is None) == (kind is None):
        raise UsageFailure("want either --trace or --arrivals")
    if trace is not None:
        found = arrivals.Arrivals.recorded(trace).scaled(options["rate_scale"]).within(deadline_us)
    else:
        sizes = arrivals.parse_sizes(options["sizes"])
        if kind == "closed":
            return arrivals.ClosedLoop(
                options["clients"],
                options["think_us"],
                options["seconds"],
                sizes,
                ids_per_row=1,
                deadline_us=deadline_us,
            )
        if rate is None:
            raise UsageFailure(f"--arrivals {kind} wants a --rate")
        rng = np.random.default_rng(options["seed"])
        if kind == "poisson":
            arrival_ns = arrivals.poisson_ns(rng, [(rate, options["seconds"])])
        else:
            arrival_ns = arrivals.bursty_ns(rng, rate, options["seconds"])
        rows = sizes(rng, len(arrival_ns))
        found = arrivals.Arrivals.drawn(arrival_ns, rows, ids_per_row=1, deadline_us=deadline_us)
    found.refuse_uncovered(ladder, queue_rows_max=options["queue_rows_max"])
    return found


def _schedulers(costs: "CostFile", ladder: "BucketLadder", options: dict[str, Any]) -> "Callable[[], Scheduler]":
    """Makes what decides in one server, as often as it is called."""
    from narsil_graph.simulation.durations import costs_of
    from narsil_graph.simulation.policies import FixedTimeout
    from narsil_graph.simulation.simulator import Scheduler
    from narsil_graph.slo import SloController
    from narsil_transport.batcher import Batcher, Mode, Settings

    queue_rows_max, slo_p99_us = options["queue_rows_max"], options["slo_p99_us"]
    if options["linger_us"] and (slo_p99_us or options["policy"] == "timeout"):
        raise UsageFailure("--linger-us is for --policy cost without --slo-p99-us, which sets it")
    if slo_p99_us and options["policy"] == "timeout":
        raise UsageFailure("--slo-p99-us is for --policy cost")

    def made() -> Scheduler:
        cost = costs_of(
            ladder, costs.launches, request_ns=round(costs.request_us * 1e3), reply_ns=round(costs.reply_us * 1e3)
        )
        if options["policy"] == "timeout":
            timeout_ns = options["timeout_us"] * 1000
            return Scheduler(FixedTimeout(ladder=ladder, timeout_ns=timeout_ns, queue_rows_max=queue_rows_max), cost)
        try:
            slots = 1 if costs.shared_loop else options["slots"]
            slo = slo_p99_us and SloController(slo_p99_ns=slo_p99_us * 1000, cost=cost, ladder=ladder, slots=slots)
        except ValueError as error:
            raise UsageFailure(f"--slo-p99-us: {error}") from None
        settings = Settings(linger_ns=options["linger_us"] * 1000) if slo is None else slo.settings
        batcher = Batcher(ladder=ladder, cost=cost, mode=Mode.BATCH, queue_rows_max=queue_rows_max, settings=settings)
        return Scheduler(batcher, cost, slo)

    return made

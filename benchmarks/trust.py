"""Whether `narsil-graph bench ab` can be believed: what it says of two equal servers, and of one that is slower.

python benchmarks/trust.py --runs 20 --seconds 40 [--percent 5]
"""

import argparse
import statistics
import sys
import tempfile

from benchmarks import machine
from benchmarks.processes import Process, Served, two_cpus
from narsil_graph.bench.ab_report import Verdict
from narsil_graph.bench.blocks import Load
from narsil_graph.bench.bootstrap import Interval
from narsil_graph.bench.comparison import Plan, compare
from narsil_graph.bench.variants import Variant, parse_variant
from narsil_graph.bench.verdict import Tolerance
from narsil_graph.errors import Failure, UsageFailure
from narsil_graph.simulation.arrivals import parse_sizes

SLOWED = machine.ROOT / "benchmarks" / "slowed_server.py"
# As `bench ab` has them where nothing is said.
IN_FLIGHT, BLOCK_S, SIZES = 4, 0.25, "constant:100"
TOLERANCE = Tolerance(margin=0.01, resolution=0.05)
RATIOS = "p50", "p99", "throughput"


def parsed() -> argparse.Namespace:
    parser = machine.parser(__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=40.0, help="of a run, in all")
    parser.add_argument("--percent", type=float, default=5.0, help="by so much the slower server's launches are longer")
    options = parser.parse_args()
    if options.quick:
        options.runs, options.seconds = 2, 20.0
    if options.runs < 1 or not options.percent > 0:
        parser.error("want a run at least, and a percent above 0")
    try:
        plan_of(0, options.seconds)
    except UsageFailure as failure:
        parser.error(str(failure))
    return options


def plan_of(seed: int, seconds: float) -> Plan:
    load = Load(IN_FLIGHT, None, BLOCK_S)
    return Plan(load=load, sizes=parse_sizes(SIZES), seed=seed, seconds=seconds)


def compared(equal: Variant, slower: Variant, options: argparse.Namespace) -> list[Verdict]:
    """Each run first compares A with itself, as always; its seed is its number."""
    verdicts: list[Verdict] = []
    for seed in range(options.runs):
        check, found = compare(equal, slower, plan_of(seed, options.seconds), lambda text: None)
        verdicts.append(Verdict.of(check, found, TOLERANCE, (), seed))
        print(f"# run {seed}: A/A p50 {verdicts[-1].check['p50']}; B/A p50 {verdicts[-1].found['p50']}", flush=True)
    return verdicts


def contains_one(interval: Interval) -> bool:
    return interval.low <= 1 <= interval.high


def found_slower(name: str, interval: Interval) -> bool:
    return interval.high < 1 if name == "throughput" else interval.low > 1


def rows(verdicts: list[Verdict]) -> list[dict[str, object]]:
    """Per ratio: how often A is A, and in how many of the runs that were not too noisy B was found out."""
    found: list[dict[str, object]] = []
    for name in RATIOS:
        said = [verdict.found[name] for verdict in verdicts if name in verdict.said]
        found.append(
            {
                "ratio": name,
                "A/A contains 1": f"{sum(contains_one(one.check[name]) for one in verdicts)} of {len(verdicts)}",
                "too noisy to say": len(verdicts) - len(said),
                "B found slower": f"{sum(found_slower(name, interval) for interval in said)} of {len(said)}",
                "B/A, median of runs": statistics.median(each.ratio for each in said) if said else float("nan"),
            }
        )
    return found


def main() -> None:
    options = parsed()
    report = machine.Report(f"trust: A with itself, and with a B whose launches take {options.percent:g}% longer")
    model = machine.made(options.model)
    # `bench ab` asks from the first processor.
    _, server_cpu = two_cpus()
    with tempfile.TemporaryDirectory(prefix="narsil-") as folder:
        binds = [f"ipc://{folder}/{name}" for name in ("a", "b")]
        slowed = [sys.executable, str(SLOWED), str(options.percent), "serve", "--model", str(model), "--bind", binds[1]]
        # One after the other, for what a launch costs is measured at the start.
        with Served(model, binds[0], cpu=server_cpu), Process(slowed, cpu=server_cpu):
            equal, slower = (parse_variant(bind, model) for bind in binds)
            try:
                verdicts = compared(equal, slower, options)
            except Failure as failure:
                sys.exit(str(failure))
    report.table(f"{options.runs} runs of {options.seconds:g} s, {IN_FLIGHT} in flight", rows(verdicts))
    report.write(options.json)


if __name__ == "__main__":
    main()

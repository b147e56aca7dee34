"""Quick ratio benchmarks against their bounds: exit code 1 where one is broken beyond its noise, under three minutes.

python benchmarks/gate.py [--bounds FILE]
"""

import sys
import time
from pathlib import Path

from benchmarks import machine
from benchmarks.gate_bounds import Outcome, Verdict, load_bounds
from narsil_graph import threads

GATES = {
    "plan-f32": "the eager forward's time over the float32 plan's: 100 rows, one thread",
    "plan-bf16": "the same of the bfloat16 plan",
    "served": "samples/s served, 16 in flight, over the forward's alone at its best bucket, on the same core",
    "overhead": "round trip less the launch, one in flight, over a bare echo's that launches the same small model",
    "decision": "a batch chosen and taken, 50 waiting, over a fixed piece of interpreted work",
    "decision-growth": "the same with 1,000 waiting over that with 50",
    "ready": "serve's seconds to its ready line over those of importing torch",
    "client-import": "importing narsil_client over importing numpy, pyzmq and msgpack",
    "help": "narsil-graph --help over importing click",
}


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--bounds", type=Path, default=Path(__file__).parent / "gates.toml")
    options = parser.parse_args()
    begin = time.perf_counter()
    threads.prepare(1)
    try:
        bounds = load_bounds(options.bounds, tuple(GATES))
    except ValueError as error:
        parser.error(str(error))
    report = machine.Report("gates")
    ratios = measured(machine.made(options.model), quick=options.quick)
    # What this machine cannot measure has no ratio.
    outcomes = [Outcome.of(name, bound, ratios[name]) for name, bound in bounds.items() if name in ratios]
    rows: list[dict[str, object]] = [
        {"gate": each.name, "ratio": each.middle, "low95": each.low, "high95": each.high,
         "bound": str(each.bound), "verdict": each.verdict.value, "of": GATES[each.name]}
        for each in outcomes
    ]  # fmt: skip
    report.table("ratios, medians of rounds", rows)
    print(f"took {time.perf_counter() - begin:.0f} s", flush=True)
    report.write(options.json)
    broken = [each.name for each in outcomes if each.verdict is Verdict.BROKEN]
    # Two rounds are no interval.
    if broken and not options.quick:
        sys.exit(f"broken: {', '.join(broken)}")


def measured(path: Path, *, quick: bool) -> dict[str, list[float]]:
    """The ratios, one a round, of every gate that this machine can measure; lines say why one cannot be."""
    # After threads.prepare: these load the libraries that read its settings once.
    from benchmarks.gate_forward import decision_ratios, forward_ratios
    from benchmarks.gate_served import served_ratios
    from benchmarks.gate_start import start_ratios
    from narsil_graph.engine import fbgemm
    from narsil_graph.model.weights import load_model

    threads.pin_torch(1)
    fbgemm.load_library()
    model = load_model(path)
    return (
        forward_ratios(model, quick=quick)
        | decision_ratios(quick=quick)
        | served_ratios(model, path, quick=quick)
        | start_ratios(path, quick=quick)
    )


if __name__ == "__main__":
    main()

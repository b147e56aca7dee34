"""Our server in float32 and bfloat16 beside each peer: one model, the same requests, the same cores, in turn.

python benchmarks/against.py [PEER ...]

Each peer in a session of its own with both of ours, blocks of a second or so in shuffled order, so that whatever the
machine does falls on all three. A peer that is not installed, or does not start, is shown as such.
"""

import argparse
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from signal import SIGTERM, signal

import numpy as np

from benchmarks import machine
from benchmarks.against_sides import ALONE, BUSY, CLOSED, PRECISIONS, Measured, Side, connected, error_of, measure
from benchmarks.peers.roster import ROSTER, Entry
from benchmarks.processes import free_ports
from narsil_graph.bench.driver import closed_loop, open_loop
from narsil_graph.bench.requests import RequestPool
from narsil_graph.errors import Failure
from narsil_graph.model.weights import Model, load_model
from narsil_graph.simulation.arrivals import poisson_ns

ROWS = 100
# Of what the slowest of the three answers with sixteen in flight: each is asked as much, and none is drowned.
OFFERED_SHARE = 0.6
# A p99 wants more requests than a mean.
OPEN_BLOCKS = 3.0
# A worker per core, as the peers have processes or threads; and as many consecutive ports, for --serve "--workers N".
SERVE = f"--workers {len(os.sched_getaffinity(0))}"
PORTS_EACH = 64


def main() -> None:
    parser = machine.parser(__doc__)
    names = [entry.name for entry in ROSTER]
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(names)}; all if none is named")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--block-s", type=float, default=1.0, help="closed loop; open loop is three times as long")
    parser.add_argument("--serve", default=SERVE, metavar="OPTIONS", help=f"further options of our server; {SERVE}")
    options = parser.parse_args()
    if unknown := set(options.peers) - set(names):
        parser.error(f"no peer is called {', '.join(sorted(unknown))}: want {', '.join(names)}")
    if options.quick:
        options.rounds, options.block_s = 2, 0.2
    # Servers in sessions of their own would outlive a `timeout` of this.
    signal(SIGTERM, lambda number, frame: sys.exit(128 + number))
    report = machine.Report(f"against peers: {ROWS} rows a request, one id per feature, TCP on the loopback")
    path = machine.made(options.model)
    model = load_model(path)
    entries = [entry for entry in ROSTER if not options.peers or entry.name in options.peers]
    peers: list[dict[str, object]] = [
        {"peer": entry.name, "what": entry.what, "of": entry.versions()} for entry in entries
    ]
    report.table("the peers", peers)
    overview = [row for entry in entries for row in _against(entry, path, model, options, report)]
    report.table("ours over each peer: samples/s (more is better) and latencies (less is better)", overview)
    report.write(options.json)


def _against(
    entry: Entry, path: Path, model: Model, options: argparse.Namespace, report: machine.Report
) -> list[dict[str, object]]:
    """One peer's tables, and its rows of the overview."""
    try:
        with ExitStack() as stack:
            texts = _texts(entry, options.serve)
            sides = [stack.enter_context(connected(name, text, path)) for name, text in texts]
            return _compared(sides, model, options, report)
    # ValueError: what a peer answered cannot be read.
    except (Failure, ValueError) as failure:
        print(f"\n{entry.name} was not run: {failure}", flush=True)
        return [_row(entry.name, name, *("not run",) * 3) for name in PRECISIONS]


def _texts(entry: Entry, serve: str) -> Generator[tuple[str, str]]:
    """Names and servers. Ours get ports that are free once the peer has its own."""
    yield entry.name, f"adapter:benchmarks.peers.{entry.module}"
    first = free_ports(PORTS_EACH * len(PRECISIONS))
    for place, precision in enumerate(PRECISIONS):
        bind = f"tcp://127.0.0.1:{first + place * PORTS_EACH}"
        yield precision, f"serve: --bind {bind} --precision {precision} {serve}"


def _compared(
    sides: Sequence[Side], model: Model, options: argparse.Namespace, report: machine.Report
) -> list[dict[str, object]]:
    pool = RequestPool.constant(model.spec, ROWS, machine.SEED)
    errors: list[dict[str, object]] = [
        {"server": side.name, "error": f"{error_of(side, model, pool):.2g}"} for side in sides
    ]
    peer = sides[0].name
    report.table(f"{peer}, largest difference of a score from float64 arithmetic", errors)
    closed: dict[int, Measured] = {}
    for in_flight in CLOSED:
        load = partial(closed_loop, in_flight=in_flight, seconds=options.block_s)
        closed[in_flight] = measure(sides, pool, load, options.rounds)
    rows = [row for in_flight, found in closed.items() for row in found.rows(f"c={in_flight}")]
    report.table(f"{peer}, closed loop", rows)
    rate = OFFERED_SHARE * min(log.requests_per_s for log in closed[BUSY].joined().values())
    rng = np.random.default_rng(machine.SEED)
    arrival_ns = poisson_ns(rng, [(rate, OPEN_BLOCKS * options.block_s)])
    opened = measure(sides, pool, partial(open_loop, arrival_ns=arrival_ns), options.rounds)
    report.table(f"{peer}, open loop, Poisson, {rate:.0f} requests/s offered to each", opened.rows("open"))
    return [
        _row(
            *(peer, name, closed[BUSY].ratio(name, "samples/s")),
            *(closed[ALONE].ratio(name, "p50 us"), opened.ratio(name, "p99 us")),
        )
        for name in PRECISIONS
    ]


def _row(peer: str, name: str, busy: str, alone: str, opened: str) -> dict[str, object]:
    columns = f"samples/s at c={BUSY}", f"p50 at c={ALONE}", "p99 in the open loop"
    return {"peer": peer, "ours": name, **dict(zip(columns, (busy, alone, opened), strict=True))}


if __name__ == "__main__":
    main()

"""Hostile frames into the decoders, and with --live hostile messages into a server while a good client asks.

python benchmarks/fuzz.py --cases 1000000
python benchmarks/fuzz.py --live 100000
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks import machine

# Cases between two looks at the memory; each has a seed of its own.
SLICE_CASES = 50_000
QUICK_CASES, QUICK_MESSAGES = 20_000, 5000
GROWTH_MIB_MAX = 50


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000, help="frames for each decoder")
    parser.add_argument("--live", type=int, metavar="MESSAGES", help="attack a running server instead")
    options = parser.parse_args()
    if options.live is not None:
        report = machine.Report("fuzz, live: hostile messages and a good client, ipc")
        live(report, QUICK_MESSAGES if options.quick else options.live)
    else:
        report = machine.Report("fuzz: mutated golden frames into the decoders")
        decoders(report, QUICK_CASES if options.quick else options.cases)
    report.write(options.json)


def decoders(report: machine.Report, cases: int) -> None:
    from tests.hostile import fuzz_frames

    rows: list[dict[str, object]] = []
    outcomes: dict[str, Counter[str]] = {}
    for name, fuzz in (("requests", fuzz_frames.requests), ("replies", fuzz_frames.replies)):
        outcomes[name] = Counter()
        rows.append({"decoder": name} | sliced(fuzz, cases, outcomes[name]))
    report.table("no case raised anything but its typed outcome", rows)
    for name, counts in outcomes.items():
        report.table(f"{name}, by outcome", [{"outcome": kind, "cases": count} for kind, count in counts.most_common()])


def sliced(fuzz: Callable[[int, int], Counter[str]], cases: int, outcomes: Counter[str]) -> dict[str, object]:
    """Run so many cases. The memory is that after the first slice, which has loaded everything, and at the end."""
    begin = time.perf_counter()
    first_mib = 0.0
    for seed, at in enumerate(range(0, cases, SLICE_CASES)):
        outcomes.update(fuzz(min(SLICE_CASES, cases - at), seed))
        first_mib = first_mib or own_mib()
    seconds = time.perf_counter() - begin
    return {
        "cases": outcomes.total(),
        "seconds": seconds,
        "cases/s": cases / seconds,
        "MiB grown": own_mib() - first_mib,
    }


def live(report: machine.Report, messages: int) -> None:
    from narsil_graph.model.weights import load_model
    from tests.hostile.siege import besiege, resident_mib
    from tests.serving.peers import Peer
    from tests.serving.processes import DEMO, ServerProcess

    model = load_model(DEMO)
    with tempfile.TemporaryDirectory() as folder, ServerProcess(Path(folder), "--buckets", "64") as server:
        before_mib = resident_mib(server.process.pid)
        begin = time.perf_counter()
        siege = besiege(server.endpoint, model, messages=messages, seed=machine.SEED)
        seconds = time.perf_counter() - begin
        after_mib = resident_mib(server.process.pid)
        with Peer(server.endpoint) as peer:
            counters = peer.metadata().meta["counters"]
        assert server.stop() == 0 and "Traceback" not in server.log, server.log
    report.table("sent, by kind of enemy", [{"enemy": kind, "messages": count} for kind, count in siege.sent.items()])
    report.table(
        "the good client: every answer had the right bits",
        [
            {"answers": len(siege.latencies_ms)}
            | {f"p{round(q * 100, 1):g} ms": siege.quantile_ms(q) for q in (0.5, 0.99, 1)}
        ],
    )
    memory = {"MiB before": before_mib, "after": after_mib, "grown": after_mib - before_mib, "seconds": seconds}
    report.table("the server", [memory | {"dropped replies": counters["dropped_replies"]}])
    report.table("its replies", [{"status": status, "replies": count} for status, count in counters["replies"].items()])
    assert after_mib - before_mib < GROWTH_MIB_MAX


def own_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    main()

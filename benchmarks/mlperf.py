"""MLPerf LoadGen over ZeroMQ: SingleStream, Server (p99 within 60 ms, or a strict 5 ms) and Offline.

python benchmarks/mlperf.py single-stream
python benchmarks/mlperf.py server
python benchmarks/mlperf.py server-strict
python benchmarks/mlperf.py offline

LoadGen makes the load, takes the times and judges the run: exit status 0 is its VALID, 1 its INVALID. A sample is one
request of 100 to 700 rows. The server is started on a core of its own, unless it is to have several or an --endpoint
is given; a server at an --endpoint wants --queue-rows-max 262144, for 256 such requests may wait there.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.mlperf_log import RunResult
from benchmarks.mlperf_search import peak
from benchmarks.mlperf_sut import Sut
from benchmarks.processes import Served, free_ports, pinned, two_cpus
from narsil_client.dealer import connect
from narsil_graph.bench.narsil import fetch_spec
from narsil_graph.bench.requests import RequestPool
from narsil_graph.bench.subject import Floats
from narsil_graph.errors import UsageFailure
from narsil_graph.model.spec import ModelSpec
from narsil_graph.simulation.arrivals import mlperf

try:
    import mlperf_loadgen as loadgen
except ModuleNotFoundError as error:
    sys.exit(f"{error}: pip install 'narsil-graph[peers]'")

# The constraint of MLPerf's DLRM, and one that a ranking service would set.
SLO_MS = {"server": 60.0, "server-strict": 5.0}
# Of 270 rows each, at 156 bytes a row as the reference model has: some 40 MiB, beyond any cache.
POOL_REQUESTS = 1000
# 256 requests in flight, of 700 rows at most.
QUEUE_ROWS_MAX = 1 << 18
# An Offline run of so many requests warms the server and shows its capacity, within a factor of HEADROOM.
PROBE_REQUESTS = 1000
HEADROOM = 1.1
OFFLINE_RUNS_MAX = 3
# Early stopping wants 64 at least before it takes a p90 for proven, and 662 for a p99; with more, a few may be late.
SINGLE_REQUESTS, CONFIRM_REQUESTS = 100, 1000
TRIAL_S, WARM_UP_S = 4.0, 1.0
# LoadGen's thread waits so long at most for ours to let go of the interpreter; Python's default is 5 ms.
SWITCH_S = 1e-4


class Rig:
    """LoadGen, set up with one Sut. `run` may be called again and again, each time with other settings."""

    def __init__(self, sut: Sut, folder: Path) -> None:
        self._sut = sut
        self._logs = loadgen.LogSettings()
        self._folder = folder
        output = loadgen.LogOutputSettings()
        output.outdir = str(folder)
        self._logs.log_output = output
        self._logs.enable_trace = False
        # Its logging thread would take turns on the client's core.
        self._logs.log_mode = loadgen.LoggingMode.EndOfTestOnly
        self.rows_per_request = 0.0

    def run(self, settings: Any) -> RunResult:
        """One run, as LoadGen's log tells of it. SystemExit where the server failed a request."""
        answered, rows = self._sut.answered, self._sut.rows
        handle = loadgen.ConstructSUT(self._issue, _nothing_to_flush)
        library = loadgen.ConstructQSL(POOL_REQUESTS, POOL_REQUESTS, _held_anyway, _held_anyway)
        try:
            # An audit.config in the folder that this was started in would change the settings.
            loadgen.StartTestWithLogSettings(handle, library, settings, self._logs, str(self._folder / "audit.config"))
        finally:
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(handle)
        if self._sut.failure is not None:
            sys.exit(f"the run means nothing: {self._sut.failure}")
        self.rows_per_request = (self._sut.rows - rows) / (self._sut.answered - answered)
        return RunResult.read(self._folder)

    def _issue(self, samples: list[Any]) -> None:
        self._sut.issue([(sample.id, sample.index) for sample in samples])


def _nothing_to_flush() -> None:
    """Every sample is sent as soon as there is room."""


def _held_anyway(samples: list[int]) -> None:
    """All of the pool is in memory."""


def complete(sample_id: int, scores: Floats | None) -> None:
    """Give LoadGen the scores, which it reads before this returns."""
    place = (0, 0) if scores is None else (scores.ctypes.data, scores.nbytes)
    loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample_id, *place)])


def settings_of(scenario: Any, seconds: float, requests_min: int = 1) -> Any:
    """What all runs have in common: they last at least so long, and for at least so many requests."""
    settings = loadgen.TestSettings()
    settings.scenario = scenario
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = int(seconds * 1e3)
    settings.min_query_count = requests_min
    settings.qsl_rng_seed = settings.sample_index_rng_seed = settings.schedule_rng_seed = machine.SEED
    return settings


def single_stream(rig: Rig, seconds: float, expected_us: float = 100.0) -> RunResult:
    """One request after the other. LoadGen draws as many as would fill the time if each took `expected_us`."""
    settings = settings_of(loadgen.TestScenario.SingleStream, seconds, SINGLE_REQUESTS)
    settings.single_stream_expected_latency_ns = int(expected_us * 1e3)
    return rig.run(settings)


def server(rig: Rig, seconds: float, requests_min: int, *, rate: float, slo_ms: float) -> RunResult:
    """Poisson arrivals, `rate` a second, of which 99 % want their scores within `slo_ms` of when they were due."""
    settings = settings_of(loadgen.TestScenario.Server, seconds, requests_min)
    settings.server_target_qps = rate
    settings.server_target_latency_ns = int(slo_ms * 1e6)
    settings.server_target_latency_percentile = 0.99
    result = rig.run(settings)
    print(f"# {seconds:g} s at {rate:.1f} requests/s: p99 {result.p99_us / 1e3:.3f} ms, {result.verdict}", flush=True)
    return result


def offline(rig: Rig, seconds: float, *, rate: float, requests_min: int = 1) -> RunResult:
    """Everything at once: a tenth more than `rate` would fill the time with."""
    settings = settings_of(loadgen.TestScenario.Offline, seconds, requests_min)
    settings.offline_expected_qps = rate
    return rig.run(settings)


def probe(rig: Rig) -> float:
    """Requests/s of a short Offline run."""
    return offline(rig, 0.0, rate=1.0, requests_min=PROBE_REQUESTS).requests_per_s


def run_single_stream(rig: Rig, options: argparse.Namespace) -> RunResult:
    warm = single_stream(rig, WARM_UP_S)
    # With too long a latency expected, the requests that were drawn end before the time does.
    return single_stream(rig, options.seconds, warm.p50_us / 2)


def run_server(rig: Rig, options: argparse.Namespace) -> RunResult:
    slo_ms = SLO_MS[options.scenario]
    alone_ms = single_stream(rig, WARM_UP_S).p99_us / 1e3
    if alone_ms > slo_ms:
        sys.exit(f"no rate has a p99 of {slo_ms:g} ms: that of one request at a time is {alone_ms:.1f} ms")
    capacity = HEADROOM * probe(rig)

    def holds(rate: float) -> bool:
        return server(rig, min(TRIAL_S, options.seconds), 1, rate=rate, slo_ms=slo_ms).within_slo

    def confirm(rate: float) -> tuple[bool, RunResult]:
        result = server(rig, options.seconds, CONFIRM_REQUESTS, rate=rate, slo_ms=slo_ms)
        return result.valid, result

    return peak(holds, confirm, capacity=capacity) if options.target_qps is None else confirm(options.target_qps)[1]


def run_offline(rig: Rig, options: argparse.Namespace) -> RunResult:
    rate = options.target_qps or probe(rig)
    for _ in range(OFFLINE_RUNS_MAX):
        result = offline(rig, options.seconds, rate=rate)
        if options.target_qps or "minimum duration" not in result.problems:
            break
        # It was faster than the rate that it was to fill the time with.
        rate = HEADROOM * result.requests_per_s
    return result


RUNS = {"single-stream": run_single_stream, "server": run_server, "server-strict": run_server, "offline": run_offline}


@contextmanager
def endpoints_of(options: argparse.Namespace, folder: str) -> Generator[list[str]]:
    """Of the servers that run already, or of one that runs while entered: then this thread has another core."""
    if options.endpoint:
        yield options.endpoint
        return
    machine.made(options.model)
    os.environ.setdefault("NARSIL_QUEUE_ROWS_MAX", str(QUEUE_ROWS_MAX))
    server_cpu, client_cpu = two_cpus() if options.workers == options.threads == 1 else (None, None)
    bind = f"ipc://{folder}/server" if options.workers == 1 else f"tcp://127.0.0.1:{free_ports(options.workers)}"
    served = Served(options.model, bind, precision=options.precision, workers=options.workers,
                    threads=options.threads, cpu=server_cpu, device=options.device)  # fmt: skip
    with served, pinned(client_cpu):
        yield served.endpoints


def spec_of(endpoints: list[str]) -> ModelSpec:
    """What all of them serve. UsageFailure where one does not answer, or serves something else."""
    spec = fetch_spec(endpoints[0])
    for endpoint in endpoints[1:]:
        if fetch_spec(endpoint) != spec:
            raise UsageFailure(f"{endpoint} serves another model than {endpoints[0]}")
    return spec


def positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def parsed() -> argparse.Namespace:
    parser = machine.parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("scenario", choices=list(RUNS))
    parser.add_argument("--seconds", type=positive, help="of the run that counts: 30, or 2 with --quick")
    parser.add_argument("--target-qps", type=positive, help="requests/s of server and offline; found where not given")
    parser.add_argument("--in-flight", type=int, choices=range(1, 257), default=256, metavar="1..256")
    parser.add_argument("--endpoint", action="append", help="a server that runs; again for each further replica")
    parser.add_argument("--precision", default="f32", choices=["f32", "bf16", "int8"])
    parser.add_argument("--workers", type=int, choices=range(1, 65), default=1, metavar="1..64")
    parser.add_argument("--threads", type=int, choices=range(1, 65), default=1, metavar="1..64", help="of a forward")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--logs", type=Path, help="keep LoadGen's own files of the last run in this folder")
    options = parser.parse_args()
    if options.seconds is None:
        options.seconds = 2.0 if options.quick else 30.0
    if options.logs is not None:
        try:
            options.logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--logs: {error}")
    return options


def main() -> int:
    options = parsed()
    report = machine.Report(f"MLPerf LoadGen, {options.scenario}: one request of 100 to 700 rows a sample")
    sys.setswitchinterval(SWITCH_S)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="narsil-"))
        logs = options.logs or Path(folder)
        endpoints = stack.enter_context(endpoints_of(options, folder))
        try:
            spec = spec_of(endpoints)
        except UsageFailure as failure:
            print(failure, file=sys.stderr)
            return failure.exit_code
        pool = RequestPool(spec, mlperf(), machine.SEED, POOL_REQUESTS)
        dealer = connect(endpoints, inflight_max=options.in_flight, context=None)
        stack.callback(dealer.close)
        rig = Rig(stack.enter_context(Sut(dealer, pool, complete, in_flight_max=options.in_flight)), logs)
        result = RUNS[options.scenario](rig, options)
    report.table(f"LoadGen {result.version}", [row(result, rig, options)])
    report.write(options.json)
    return 0 if result.valid else 1


def row(result: RunResult, rig: Rig, options: argparse.Namespace) -> dict[str, object]:
    return {
        "scenario": options.scenario,
        "result": result.verdict,
        "requests/s": result.requests_per_s,
        "rows/s": result.requests_per_s * rig.rows_per_request,
        "p50 ms": result.p50_us / 1e3,
        "p90 ms": result.p90_us / 1e3,
        "p99 ms": result.p99_us / 1e3,
        "p99 wanted ms": SLO_MS.get(options.scenario, ""),
        "seconds": options.seconds,
        "in flight": options.in_flight,
    }


if __name__ == "__main__":
    sys.exit(main())

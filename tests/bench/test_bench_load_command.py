"""`bench load` against a ROUTER in a thread: what it prints and writes, and what it refuses."""

import json
import os
import subprocess
from collections.abc import Generator
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner, Result

from narsil_graph.bench.load_result import STAGES
from narsil_graph.commands.bench_load import load
from narsil_graph.errors import Failure, UsageFailure
from narsil_graph.trace import Recorder, TraceHeader
from narsil_transport.buckets import BucketLadder
from narsil_transport.messages import InferRequest, Priority
from narsil_transport.status import Status
from tests.bench.spec_server import SpecServer
from tests.client.fake_server import Replies, overloaded, scored, silent
from tests.engine.tiny import Shape

SHORT = ("--seconds", "0.2", "--warm-up-s", "0", "--sizes", "constant:3")
RATE = ("--rate", "300")


@pytest.fixture
def server() -> Generator[SpecServer]:
    with SpecServer(scored) as running:
        yield running


def ran(*arguments: object) -> Result:
    result = CliRunner().invoke(load, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def trace_at(path: Path) -> Path:
    """20 requests of 1 to 20 rows, one a millisecond, each with a millisecond more; every other is bulk work."""
    header = TraceHeader(model="m", version="v1", machine="here", ladder=BucketLadder.from_rows((8,), ids_per_row=1),
                         started_unix_ns=0)  # fmt: skip
    recorder = Recorder(path, header=header, size_mib_max=1, began_ns=0)
    for place in range(20):
        recorder.record(arrival_ns=place * 1_000_000, rows=place + 1, ids=place + 1,
                        deadline_us=1000 * place, latency_us=5, status=Status.OK, bulk=place % 2 == 1)  # fmt: skip
    recorder.close()
    return path


@pytest.mark.parametrize("kind", ["poisson", "fixed", "bursty"])
def test_open_loop_asks_at_the_rate_and_tells_the_stages(server: SpecServer, kind: str, tmp_path: Path) -> None:
    result = ran(server.endpoint, "--arrivals", kind, *RATE, *SHORT, "--json", tmp_path / "load.json")
    told = json.loads((tmp_path / "load.json").read_text())
    assert told["options"]["arrivals"] == kind
    assert told["result"]["statuses"] == {"OK": len(server.seen)}
    assert {request.rows for request in server.seen} == {3}
    assert list(told["result"]["stages"]) == list(STAGES)
    assert result.stdout.startswith(f"requests  {len(server.seen)} in 0.2")
    assert "latency   p50" in result.stdout and result.stderr == ""


def test_fixed_arrivals_are_as_many_as_the_rate_says(server: SpecServer) -> None:
    ran(server.endpoint, "--arrivals", "fixed", *RATE, *SHORT)
    assert len(server.seen) == 60


def test_seed_decides_what_is_asked() -> None:
    asked: list[list[bytes]] = []
    for seed in (1, 1, 2):
        with SpecServer(scored) as server:
            ran(server.endpoint, "--rate", "100", *SHORT, "--seed", seed)
        asked.append([request.dense.tobytes() for request in server.seen])
    assert asked[0] == asked[1] != asked[2]


def test_warm_up_is_not_counted(server: SpecServer, tmp_path: Path) -> None:
    ran(server.endpoint, "--arrivals", "fixed", *RATE, *SHORT, "--warm-up-s", "0.1", "--json", tmp_path / "load.json")
    assert len(server.seen) == 90
    assert json.loads((tmp_path / "load.json").read_text())["result"]["requests"] == 60


def test_closed_loop_needs_no_rate(server: SpecServer) -> None:
    result = ran(server.endpoint, "--arrivals", "closed", "--in-flight", 2, *SHORT)
    assert f"requests  {len(server.seen)} in" in result.stdout


def test_trace_is_asked_as_it_was_recorded(server: SpecServer, tmp_path: Path) -> None:
    trace = trace_at(tmp_path / "trace")
    ran(server.endpoint, "--arrivals", "trace", "--trace", trace, "--rate-scale", 0.5, "--warm-up-s", 0)
    assert [request.rows for request in server.seen] == [*range(1, 21)]
    assert [request.deadline_us for request in server.seen] == [None, *range(1000, 20_000, 1000)]
    assert [request.priority for request in server.seen] == [Priority.INTERACTIVE, Priority.BULK] * 10


def test_deadline_that_is_asked_for_wins_over_a_trace(server: SpecServer, tmp_path: Path) -> None:
    trace = ("--arrivals", "trace", "--trace", trace_at(tmp_path / "trace"))
    ran(server.endpoint, *trace, "--deadline-us", 70, "--warm-up-s", 0)
    assert {request.deadline_us for request in server.seen} == {70}


def test_trace_can_be_cut(server: SpecServer, tmp_path: Path) -> None:
    trace = trace_at(tmp_path / "trace")
    ran(server.endpoint, "--arrivals", "trace", "--trace", trace, "--seconds", 0.005, "--warm-up-s", 0)
    assert [request.rows for request in server.seen] == [*range(1, 6)]


def test_connections_and_servers_share_the_load(server: SpecServer, tmp_path: Path) -> None:
    with SpecServer(scored) as other:
        arguments = (server.endpoint, other.endpoint, "--connections", 2, "--arrivals", "closed", *SHORT)
        ran(*arguments, "--json", tmp_path / "load.json")
    answered = json.loads((tmp_path / "load.json").read_text())["result"]["requests"]
    assert answered == len(server.seen) + len(other.seen)
    assert server.seen and other.seen


def test_picture_is_drawn(server: SpecServer, tmp_path: Path) -> None:
    ran(server.endpoint, *RATE, *SHORT, "--png", tmp_path / "load.png")
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")


def test_find_max_tells_its_trials_and_the_run_that_confirmed(
    server: SpecServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("narsil_graph.bench.load.TRIAL_REQUESTS_MIN", 5)
    arguments = ("--find-max", "--slo-p99-us", 5_000_000, "--arrivals", "fixed", "--seconds", "0.02", *SHORT[2:])
    result = ran(server.endpoint, *arguments, "--json", tmp_path / "load.json")
    told = json.loads((tmp_path / "load.json").read_text())
    assert told["find_max"]["trials"][-1]["confirming"]
    assert told["find_max"]["rate"] == told["find_max"]["trials"][-1]["rate"]
    assert told["find_max"]["result"]["requests"] == told["result"]["requests"]
    assert "requests/s with a p99 of 5000000 us" in result.stdout


def test_find_max_that_finds_nothing_fails(server: SpecServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("narsil_graph.bench.load.TRIAL_REQUESTS_MIN", 1)
    arguments = ("--find-max", "--slo-p99-us", 1, "--arrivals", "fixed", "--seconds", "0.01", *SHORT[2:])
    with pytest.raises(Failure, match="no rate that was tried has a p99 of 1 us"):
        ran(server.endpoint, *arguments)


def test_find_max_of_a_server_that_answers_nothing_fails() -> None:
    arguments = ("--find-max", "--slo-p99-us", 1, "--seconds", "0.01", *SHORT[2:])
    with SpecServer(overloaded) as server, pytest.raises(Failure, match="no request was answered"):
        ran(server.endpoint, *arguments)


def test_find_max_of_a_server_that_stops_answering_fails_at_once() -> None:
    asked = 0

    def once_busy(request: InferRequest) -> Replies:
        nonlocal asked
        asked += 1
        return scored(request) if asked < 20 else silent(request)

    arguments = ("--find-max", "--slo-p99-us", 1000, "--seconds", "0.01", "--timeout", "0.1", *SHORT[2:])
    with SpecServer(once_busy) as server, pytest.raises(Failure, match="the server has stopped answering"):
        ran(server.endpoint, *arguments)


def test_load_is_told_when_a_counted_process_has_ended(server: SpecServer, tmp_path: Path) -> None:
    report = tmp_path / "load.json"
    with subprocess.Popen(["sleep", "0.5"]) as process:
        reaper = Thread(target=process.wait)
        reaper.start()
        arguments = (server.endpoint, *RATE, *SHORT[2:], "--seconds", 0.8, "--server-pid", process.pid)
        with pytest.raises(Failure, match="a process of --server-pid has ended meanwhile"):
            ran(*arguments, "--json", report)
        reaper.join()
    assert json.loads(report.read_text())["result"]["cpu_s_per_million_rows"] is None


def test_process_that_listens_here_is_counted_without_being_named(server: SpecServer, tmp_path: Path) -> None:
    ran(server.endpoint, *RATE, *SHORT, "--json", tmp_path / "load.json")
    told = json.loads((tmp_path / "load.json").read_text())
    assert told["options"]["pids"] == [os.getpid()] and told["result"]["cpu_s_per_million_rows"] > 0


def test_longer_timeout_than_a_drain_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("narsil_graph.bench.load.DRAIN_S", 0.05)
    arguments = ("--arrivals", "closed", "--in-flight", 2, *SHORT, "--timeout", 0.3, "--json", tmp_path / "load.json")
    with SpecServer(silent) as server, pytest.raises(Failure, match="no request was answered"):
        ran(server.endpoint, *arguments)
    assert json.loads((tmp_path / "load.json").read_text())["result"]["statuses"] == {"TIMEOUT": 2}


def test_load_of_which_nothing_is_answered_fails_and_is_told(tmp_path: Path) -> None:
    with SpecServer(overloaded) as server, pytest.raises(Failure, match="no request was answered"):
        ran(server.endpoint, *RATE, *SHORT, "--json", tmp_path / "load.json")
    statuses = json.loads((tmp_path / "load.json").read_text())["result"]["statuses"]
    assert statuses == {"OVERLOADED": len(server.seen)}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "--arrivals poisson wants a --rate"),
        (("--arrivals", "closed", *RATE), "--arrivals closed wants no --rate"),
        (("--arrivals", "trace"), "--arrivals trace wants a --trace, and the others none"),
        ((*RATE, "--trace", "x"), "--arrivals trace wants a --trace, and the others none"),
        (("--find-max",), "--find-max wants --slo-p99-us, arrivals poisson, fixed or bursty, and no --rate"),
        (("--find-max", "--slo-p99-us", 5, *RATE), "--find-max wants --slo-p99-us, .* and no --rate"),
        ((*RATE, "--slo-p99-us", 5), "--slo-p99-us is for --find-max"),
        ((*RATE, "--rate-scale", 2), "--arrivals poisson wants no --rate-scale"),
        (("--arrivals", "trace", "--trace", "x", "--sizes", "mlperf"), "--arrivals trace wants no --sizes"),
        (("--rate", "1e6", "--seconds", "11"), "want at most 10,000,000 requests, and .* make 11,000,000"),
        ((*RATE, "--connections", 101), "want at most 100 connections in all, got 101"),
        ((*RATE, "--sizes", "mlpref"), "want --sizes"),
        ((*RATE, "--json", "/nowhere/at/all"), "cannot write /nowhere/at/all: there is no such folder"),
        ((*RATE, "--server-pid", 2**31 - 1), "there is no process"),
        ((*RATE, "--curve-server-key", "x"), "--curve-server-key and --curve-secret-key want each other"),
        ((*RATE, "--curve-server-key", "x", "--curve-secret-key", "y"), "want a server_key of 40 Z85 characters"),
        (("--rate", "0.1", *SHORT, "--seed", 0), "no request arrives: want a higher rate or more seconds"),
    ],
)
def test_what_is_asked_wrongly_is_refused(
    server: SpecServer, arguments: tuple[object, ...], sentence: str, tmp_path: Path
) -> None:
    report = () if "--json" in arguments else ("--json", tmp_path / "load.json")
    with pytest.raises(UsageFailure, match=sentence):
        ran(server.endpoint, *arguments, *report)
    assert server.seen == [] and not (tmp_path / "load.json").exists()


@pytest.mark.parametrize("number", ["nan", "inf", "0", "-1"])
@pytest.mark.parametrize("option", ["--rate", "--seconds"])
def test_what_is_no_finite_number_above_0_is_refused(server: SpecServer, option: str, number: str) -> None:
    result = ran(server.endpoint, *RATE, option, number)
    assert result.exit_code == 2 and f"Invalid value for '{option}'" in result.stderr


def test_trace_that_is_none_is_refused(server: SpecServer, tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("nothing")
    with pytest.raises(Failure, match="is not a trace"):
        ran(server.endpoint, "--arrivals", "trace", "--trace", tmp_path / "trace")


def test_servers_of_different_models_are_refused(server: SpecServer) -> None:
    other_model = SpecServer(scored, spec=Shape(dense_features=4).spec())
    with other_model as other, pytest.raises(UsageFailure, match="have different models"):
        ran(server.endpoint, other.endpoint, *RATE)

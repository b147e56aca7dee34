"""Profiles: stages that make up the round trip, and a launch's operators told apart."""

import json
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner

from narsil_graph.bench import profile_live
from narsil_graph.bench.narsil import NarsilSubject
from narsil_graph.bench.profile import LaunchOps, Op, Profile
from narsil_graph.bench.profile_live import STAGES as LIVE_STAGES
from narsil_graph.bench.profile_live import live_stages
from narsil_graph.bench.profile_ops import mean_ops
from narsil_graph.bench.profile_spine import (
    CHOOSE,
    DECODE,
    ENCODE,
    ENTER,
    SCORE,
    SEND,
    STAGES,
    WIRE_BACK,
    WIRE_THERE,
    spine,
)
from narsil_graph.bench.subject import Rows
from narsil_graph.build import EngineConfig, build_engine
from narsil_graph.commands.bench_profile import profile
from narsil_graph.errors import Failure, UsageFailure
from narsil_transport.messages import InferRequest, StageTimes
from narsil_transport.status import Refusal, Status
from narsil_transport.wire import encode_refusal, encode_scores
from tests.bench.spec_server import SpecServer
from tests.client.fake_server import Replies
from tests.engine.tiny import tiny_model
from tests.serving.processes import narsil, only_sentence

ROWS = 3


def test_each_stage_of_a_round_trip_begins_where_the_one_before_ended() -> None:
    entered: list[str] = []

    @contextmanager
    def scope(stage: str) -> Generator[None]:
        assert len(open_scopes) == 0
        open_scopes.append(stage)
        entered.append(stage)
        yield
        open_scopes.pop()

    open_scopes: list[str] = []
    model = tiny_model()
    engine = build_engine(model, EngineConfig(device="cpu", engine="eager", bucket_rows=(4,)))
    engine.capture_all(lambda bucket, captured: None)
    with spine(model, engine, rows=ROWS, seed=0) as asked:
        # What the sockets do when they connect is in the first.
        asked.ask(nullcontext)
        spent_us = asked.ask(scope)
    assert entered == [ENCODE, WIRE_THERE, ENTER, CHOOSE, SCORE, SEND, WIRE_BACK, DECODE]
    assert open_scopes == []
    assert tuple(spent_us) == STAGES
    assert min(spent_us.values()) > 0


def test_round_trip_is_the_sum_of_its_stages_request_by_request() -> None:
    found = Profile.of("tiny", ROWS, {"there": [1.0, 2.0, 30.0], "back": [5.0, 30.0, 1.0]})
    assert (found.requests, found.round_trip.us_p50) == (3, 31.0)
    assert [stage.us_p50 for stage in found.stages] == [2.0, 5.0]


def test_shares_of_the_stages_add_up_whatever_stalled() -> None:
    text = Profile.of("tiny", ROWS, {"there": [1.0, 1.0, 900.0], "back": [3.0, 900.0, 3.0]}).text()
    shares = [line.split()[-1] for line in text.splitlines()[2:4]]
    assert shares == ["25.0%", "75.0%"]


def test_launch_table_is_led_by_the_longest_and_ends_with_what_no_operator_accounts_for() -> None:
    ops = (Op("short", "", 1, 20.0), Op("tiny", "", 3, 0.1), Op("long", "2x3 3x4", 2, 50.0), Op("less", "", 1, 0.2))
    heading, _, *rows = LaunchOps("f32 mkl", 10, 100.0, ops).lines()
    assert heading == "launch: f32 mkl; 100.0 us while watched, mean of 10"
    assert [row.split()[0] for row in rows] == ["long", "short", "2", "outside"]
    assert rows[0].split() == ["long", "2x3", "3x4", "2", "50.0", "50.0%"]
    assert rows[2].split() == ["2", "others", "4", "0.3", "0.3%"]
    assert rows[3].split()[-2:] == ["29.7", "29.7%"]


def test_operators_are_told_apart_by_their_shapes() -> None:
    launch = [("mm", 4.0), ("mm", 1.0), ("relu", 1.0)]
    again = [("mm", 6.0), ("mm", 3.0), ("relu", 1.0)]
    shapes = [("mm", "2x3"), ("mm", "3x4"), ("relu", "4")] * 2
    assert mean_ops(launch + again, shapes, launches=2) == (
        Op("mm", "2x3", 1, 5.0),
        Op("mm", "3x4", 1, 2.0),
        Op("relu", "4", 1, 1.0),
    )


def test_shapes_of_other_calls_are_nobodys() -> None:
    events, shapes = [("mm", 4.0), ("mm", 1.0)], [("mm", "2x3"), ("relu", "4")]
    assert mean_ops(events, shapes, launches=1) == (Op("mm", "", 2, 5.0),)


def scored(request: InferRequest) -> Replies:
    times = StageTimes(queue_us=5.0, fill_us=10.0, launch_us=40.0, read_us=2.0, server_us=60.0)
    return [encode_scores(request.request_id, "v7", ROWS, ROWS, times, None, request.dense[:, 0])]


def test_live_stages_are_those_that_the_replies_tell() -> None:
    with SpecServer(scored) as server:
        found = live_stages(server.endpoint, rows=ROWS, requests=4, seed=0)
    assert tuple(found) == LIVE_STAGES
    assert [found[name] for name in LIVE_STAGES[1:]] == [[5.0] * 4, [10.0] * 4, [40.0] * 4, [2.0] * 4, [3.0] * 4]


def test_live_server_that_refuses_is_not_profiled() -> None:
    def refuse(request: InferRequest) -> Replies:
        return [[encode_refusal(request.request_id, "v7", Refusal(Status.TOO_LARGE, "no"))]]

    with SpecServer(refuse) as server, pytest.raises(Failure, match="a request of 3 rows ended as TOO_LARGE"):
        live_stages(server.endpoint, rows=ROWS, requests=4, seed=0)


# In processes of their own: the command sets torch's threads, and freezes what there is to collect.
def test_command_tells_stages_and_operators_and_writes_both_and_a_trace(tmp_path: Path) -> None:
    trace, numbers = tmp_path / "trace.json", tmp_path / "profile.json"
    options = ("--device", "cpu", "--engine", "eager", "--rows", 5, "--requests", 4)
    ended = narsil("bench", "profile", *options, "--trace", trace, "--json", numbers)
    assert ended.returncode == 0, ended.stderr
    assert "cpu eager f32, bucket 8, 1 threads, 4 requests of 5 rows" in ended.stdout
    told = json.loads(numbers.read_text())
    assert [stage["name"] for stage in told["stages"]] == [*STAGES]
    (lookup,) = (op for op in told["launch"]["ops"] if op["name"].startswith("fbgemm::"))
    assert lookup["calls"] == 1
    assert lookup["name"] in ended.stdout
    events = json.loads(trace.read_text())["traceEvents"]
    assert {ENCODE, SCORE, DECODE} <= {event["name"] for event in events}


def test_more_rows_than_a_bucket_has_are_a_usage_error() -> None:
    ended = narsil("bench", "profile", "--device", "cpu", "--rows", 500)
    assert (ended.returncode, only_sentence(ended)) == (2, "--rows 500 exceeds the largest bucket, 400 rows")


@pytest.mark.parametrize("arguments", [("model",), ("--trace", "x")])
def test_running_server_is_profiled_without_a_model_or_a_trace(arguments: tuple[str, ...]) -> None:
    ended = CliRunner().invoke(profile, [*arguments, "--connect", "ipc://@nobody"])
    assert isinstance(ended.exception, UsageFailure)


@pytest.mark.parametrize("option", [("--precision", "bf16"), ("--threads", "2"), ("--buckets", "8")])
def test_running_server_is_not_asked_for_what_it_has_chosen(option: tuple[str, str]) -> None:
    ended = CliRunner().invoke(profile, [*option, "--connect", "ipc://@nobody"])
    assert isinstance(ended.exception, UsageFailure)
    assert str(ended.exception) == f"--connect profiles a running server: it takes no {option[0]}"


def test_file_that_could_not_be_written_is_refused_before_anything_is_measured() -> None:
    ended = CliRunner().invoke(profile, ["--json", "/no/such/folder/x", "--connect", "ipc://@nobody"])
    assert isinstance(ended.exception, UsageFailure) and "there is no such folder" in str(ended.exception)


def test_server_that_goes_between_two_requests_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = NarsilSubject.submit

    def until_gone(subject: NarsilSubject, number: int, rows: Rows) -> bool:
        return number < 3 and submit(subject, number, rows)

    monkeypatch.setattr(NarsilSubject, "submit", until_gone)
    monkeypatch.setattr(profile_live, "TIMEOUT_S", 0.05)
    with SpecServer(scored) as server, pytest.raises(Failure, match=r"the server took no request for 0\.05 s"):
        live_stages(server.endpoint, rows=ROWS, requests=4, seed=0)

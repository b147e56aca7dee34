"""`simulate` from files to numbers, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from narsil_graph.commands.simulate import simulate
from narsil_graph.cost_file import CostFile
from narsil_graph.errors import Failure
from narsil_graph.trace import Recorder, TraceHeader
from narsil_transport.buckets import Bucket
from narsil_transport.cost import LaunchCost
from narsil_transport.status import Status
from tests.simulation.scenes import ladder_of, launch_ns

IDS_PER_ROW = 2
DRAWN = ("--arrivals", "poisson", "--rate", "2000", "--seconds", "0.2", "--sizes", "constant:4")
SIZES = "constant:ROWS, lognormal:MEDIAN:SIGMA[:MAX] or mlperf"
NO_LINGER = "--linger-us is for --policy cost without --slo-p99-us, which sets it"


@pytest.fixture
def cost(tmp_path: Path) -> Path:
    launches = tuple(
        (Bucket(rows, rows * IDS_PER_ROW), LaunchCost(launch_ns(rows), launch_ns(rows) * 6 // 5)) for rows in (1, 8, 32)
    )
    costs = CostFile(
        model="m", version="v1", machine="here", device="cpu", engine="plan", precision="f32", threads=1,
        shared_loop=True, launches=launches, request_us=3.0, reply_us=2.0,
    )  # fmt: skip
    costs.save(tmp_path / "cost.json")
    return tmp_path / "cost.json"


def trace_at(path: Path, *, ids_per_row: int = 1, requests: int = 50, rows: int = 4) -> Path:
    header = TraceHeader(model="m", version="v1", machine="here", ladder=ladder_of(8), started_unix_ns=0)
    recorder = Recorder(path, header=header, size_mib_max=1, began_ns=0)
    for number in range(requests):
        recorder.record(
            arrival_ns=number * 200_000, rows=rows, ids=rows * ids_per_row, deadline_us=0, latency_us=1,
            status=Status.OK, bulk=False,
        )  # fmt: skip
    recorder.close()
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(simulate, [str(argument) for argument in arguments])


def numbers(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def sentence(*arguments: object) -> str:
    """The one line of a refusal."""
    result = run(*arguments)
    assert isinstance(result.exception, Failure), result
    assert "\n" not in str(result.exception) and not result.stdout
    return str(result.exception)


def test_trace_is_simulated(cost: Path, tmp_path: Path) -> None:
    result = run("--cost", cost, "--trace", trace_at(tmp_path / "trace"), "--no-jitter")
    assert result.exit_code == 0, result
    # Each request finds an idle server: received, launched in the bucket of eight rows, answered.
    assert "answered  50" in result.stdout
    assert f"latency   p50 {3 + launch_ns(8) // 1000 + 2} us" in result.stdout


def test_rate_scale_makes_the_trace_denser(cost: Path, tmp_path: Path) -> None:
    trace = trace_at(tmp_path / "trace")
    slow, fast = (numbers("--cost", cost, "--trace", trace, "--rate-scale", scale) for scale in (1, 10))
    assert fast["launches"] < slow["launches"] == 50 and fast["answered"] == 50


@pytest.mark.parametrize("arrivals", ["poisson", "bursty", "closed"])
@pytest.mark.parametrize("policy", ["cost", "timeout"])
def test_drawn_traffic_is_the_same_for_the_same_seed(cost: Path, arrivals: str, policy: str) -> None:
    arguments = ("--cost", cost, *DRAWN, "--arrivals", arrivals, "--policy", policy, "--seed")
    assert numbers(*arguments, 1) == numbers(*arguments, 1) != numbers(*arguments, 2)


def test_buckets_between_the_measured_ones_cost_what_lies_between(cost: Path, tmp_path: Path) -> None:
    trace = trace_at(tmp_path / "trace")
    found = numbers("--cost", cost, "--trace", trace, "--no-jitter", "--buckets", "2,4,16")
    assert found["latency_us_p50"] == pytest.approx(3 + launch_ns(4) / 1e3 + 2)
    assert found["fill"] == 1.0


def test_deadline_is_for_requests_without_one(cost: Path, tmp_path: Path) -> None:
    found = numbers("--cost", cost, "--trace", trace_at(tmp_path / "trace"), "--deadline-us", 20)
    assert found["refused"] == {"WOULD_MISS": 50}


def test_controller_promises_what_it_is_told(cost: Path) -> None:
    found = numbers("--cost", cost, *DRAWN, "--rate", 120_000, "--slo-p99-us", 2_000)
    assert found["refused"]["WOULD_MISS"] and found["server_us_p50"] < 2_000


def test_plot_is_written(cost: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert run("--cost", cost, *DRAWN, "--plot", tmp_path / "p.png").exit_code == 0
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_malformed_trace_is_one_sentence(cost: Path, tmp_path: Path) -> None:
    (tmp_path / "trace").write_bytes(b"not a trace\n")
    assert "is not a trace" in sentence("--cost", cost, "--trace", tmp_path / "trace")


def test_empty_trace_is_one_sentence(cost: Path, tmp_path: Path) -> None:
    trace = trace_at(tmp_path / "trace", requests=0)
    assert "there are no records" in sentence("--cost", cost, "--trace", trace)


@pytest.mark.parametrize(("field", "what"), [("version", "model version"), ("machine", "machine")])
def test_costs_of_another_model_or_machine_are_one_sentence(cost: Path, tmp_path: Path, field: str, what: str) -> None:
    cost.write_text(json.dumps(json.loads(cost.read_text()) | {field: "other"}))
    said = sentence("--cost", cost, "--trace", trace_at(tmp_path / "trace"))
    assert said.startswith(f"the cost file is of {what} other")


def test_costs_of_another_machine_can_be_asked_for(cost: Path, tmp_path: Path) -> None:
    cost.write_text(json.dumps(json.loads(cost.read_text()) | {"machine": "other"}))
    assert numbers("--cost", cost, "--trace", trace_at(tmp_path / "trace"), "--any-machine")["answered"] == 50


def test_ladder_that_cannot_cover_a_request_is_one_sentence(cost: Path, tmp_path: Path) -> None:
    trace = trace_at(tmp_path / "trace", ids_per_row=7)
    said = sentence("--cost", cost, "--trace", trace, "--buckets", "1,2")
    assert said == "the ladder's largest bucket holds 4 ids: it cannot cover a request of 28 ids in 4 rows"


def test_ladder_beyond_the_measured_is_one_sentence(cost: Path) -> None:
    said = sentence("--cost", cost, *DRAWN, "--buckets", "8,64")
    assert said == "the costs were measured up to 32 rows: nothing is known of 64"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--arrivals", "poisson"), "--arrivals poisson wants a --rate"),
        ((), "want either --trace or --arrivals"),
        ((*DRAWN, "--sizes", "normal"), f"want --sizes {SIZES}, got 'normal'"),
        ((*DRAWN, "--rate", "0.001"), "no request arrives: want a higher rate or more seconds"),
        ((*DRAWN, "--sizes", "constant:9", "--queue-rows-max", "8"), "a queue of 8 rows cannot take a request of 9"),
        ((*DRAWN, "--policy", "timeout", "--linger-us", "5"), NO_LINGER),
        ((*DRAWN, "--slo-p99-us", "900", "--linger-us", "5"), NO_LINGER),
        ((*DRAWN, "--policy", "timeout", "--slo-p99-us", "900"), "--slo-p99-us is for --policy cost"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_one_sentence(cost: Path, arguments: tuple[str, ...], said: str) -> None:
    assert sentence("--cost", cost, *arguments) == said


def test_objective_below_a_launch_is_one_sentence(cost: Path) -> None:
    assert sentence("--cost", cost, *DRAWN, "--slo-p99-us", 9).startswith("--slo-p99-us: want a p99 of at least 61 us")

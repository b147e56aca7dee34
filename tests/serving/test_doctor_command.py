"""The doctor as a command: what it prints, in which words it fails, and with which exit code."""

import json
from pathlib import Path

import pytest

from narsil_graph.cost_file import CostFile, load_cost
from narsil_graph.machine_id import machine_id
from narsil_graph.model.weights import load_model
from tests.engine.test_doctor import ENGINE_CHECKS, SLOT_CHECKS
from tests.model.torchrec_archives import Shape, draft
from tests.serving.processes import DEMO, narsil, only_sentence, run_python, usage_error


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], CostFile]:
    """What the doctor says of the demo, line by line, and the costs that it saves."""
    path = tmp_path_factory.mktemp("measured") / "cost.json"
    ended = narsil("doctor", "--buckets", "1,8", "--device", "cpu", "--save-cost", path)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines(), load_cost(path)


def test_doctor_finds_the_demo_healthy_and_says_what_it_measured(healthy: tuple[list[str], CostFile]) -> None:
    (heading, columns, small, large, messages, verdict), costs = healthy
    assert heading.endswith(", cpu f32, 1 threads")
    assert columns.split()[:2] == ["rows", "nodes"]
    assert (small.split()[0], large.split()[0]) == ("1", "8")
    assert messages == f"request us {costs.request_us:.1f}, reply us {costs.reply_us:.1f}"
    assert verdict == f"healthy: 2 buckets, {2 * len(SLOT_CHECKS) + len(ENGINE_CHECKS)} checks"


def test_json_holds_model_device_engine_and_every_check_of_every_bucket() -> None:
    ended = narsil("doctor", "--buckets", "1,4", "--device", "cpu", "--json", "--against", DEMO)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["model"], told["healthy"], told["fault"], told["row_error"]) == ("movielens", True, None, 0.0)
    assert told["version"] in narsil("inspect", DEMO).stdout
    assert told["device"]["device"] == "cpu"
    assert told["device"]["torch"]
    assert (told["engine"]["precision"], told["engine"]["bucket_rows"]) == ("f32", [1, 4])
    assert {finding["check"]: finding["problem"] for finding in told["findings"]} == dict.fromkeys(ENGINE_CHECKS)
    assert [report["rows"] for report in told["buckets"]] == [1, 4]
    assert [launch["rows"] for launch in told["cost"]["launches"]] == [1, 4]
    for report in told["buckets"]:
        assert report["error"] < 1e-6
        assert report["eager_error"] < 1e-6
        assert 0 < report["replay_us_p50"] <= report["replay_us_p99"]
        assert {finding["check"]: finding["problem"] for finding in report["findings"]} == dict.fromkeys(SLOT_CHECKS)


def test_saved_costs_are_those_of_the_model_here(healthy: tuple[list[str], CostFile]) -> None:
    _, costs = healthy
    costs.check(load_model(DEMO).version, machine_id("cpu"))
    assert (costs.model, costs.engine, costs.precision, costs.threads) == ("movielens", "plan", "f32", 1)
    assert costs.shared_loop
    assert [bucket.rows for bucket in costs.ladder.buckets] == [1, 8]
    assert min(costs.request_us, costs.reply_us) > 0


def test_costs_that_cannot_be_written_are_one_sentence(tmp_path: Path) -> None:
    ended = narsil("doctor", "--buckets", "1", "--device", "cpu", "--save-cost", tmp_path / "none" / "c")
    assert ended.returncode == 1
    assert only_sentence(ended) == f"cannot write {tmp_path}/none/c: No such file or directory"


def test_error_of_rows_in_fewer_bits_is_printed_beside_the_original(tmp_path: Path) -> None:
    quantised = tmp_path / "small.safetensors"
    assert narsil("quantise", DEMO, "--rows", "int4", "-o", quantised).returncode == 0
    ended = narsil("doctor", quantised, "--buckets", "1", "--device", "cpu", "--against", DEMO)
    assert ended.returncode == 0, ended.stderr
    words = ended.stdout.splitlines()[-2].split()
    assert words[:2] == ["row", "error"]
    assert 1e-4 < float(words[2].rstrip(",")) < 0.5


# An engine whose every score is a little off, which only a comparison can find; or is not a number at all.
SICK = """
import sys
from narsil_graph.__main__ import main
from narsil_graph.engine.cpu_plan import CpuPlan

scores, off = CpuPlan.scores, float(sys.argv.pop(1))
CpuPlan.scores = lambda self, slot: scores(self, slot) + off
main()
"""


def test_doctor_ends_with_1_and_a_line_for_each_bucket_and_check_that_failed() -> None:
    ended = run_python("-c", SICK, "1e-4", "doctor", "--buckets", "1,4", "--device", "cpu")
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("captured ")]
    off = "scores are 1.0e-04 off {}, more than 1e-06: "
    assert [line.partition("1e-06: ")[0] + "1e-06: " for line in lines] == [
        f"narsil-graph: bucket 1: parity: {off.format('float64')}",
        f"bucket 1: eager: {off.format('the eager forward')}",
        f"bucket 4: parity: {off.format('float64')}",
        f"bucket 4: eager: {off.format('the eager forward')}",
    ]
    assert "healthy" not in ended.stdout


def test_json_of_scores_that_are_not_numbers_is_json_all_the_same_and_no_costs_are_saved(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    ended = run_python(
        "-c", SICK, "nan", "doctor", "--buckets", "1", "--device", "cpu", "--json", "--save-cost", tmp_path / "cost"
    )
    assert ended.returncode == 1
    told = json.loads(ended.stdout, parse_constant=refuse)
    assert told["healthy"] is False
    assert told["buckets"][0]["error"] is None
    assert told["cost"] is None
    assert not list(tmp_path.iterdir())


def test_server_does_not_start_on_scores_that_are_off(tmp_path: Path) -> None:
    bind = f"ipc://{tmp_path}/s"
    ended = run_python("-c", SICK, "1e-4", "serve", "--buckets", "4", "--bind", bind, "--dry-run")
    assert ended.returncode == 1
    assert only_sentence(ended).startswith("bucket 4 is 1.0e-04 off the float64 scores, more than 1e-05: ")
    assert ended.stdout == ""


# The command on a tape instead of a CUDA device. Its products are the CPU's, where a row's bits depend on its place.
TAPED = """
from narsil_graph import build, measure_cost
from narsil_graph.__main__ import main
from narsil_graph.engine import doctor, engine_checks, fbgemm, slot_checks
from narsil_graph.engine.cuda_graph import CudaGraphs
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.graph_options import GraphOptions
from tests.engine.tape import TapeDevice

def build_engine(model, config):
    fbgemm.load_library()
    launcher = CudaGraphs(model, TapeDevice(), GraphOptions(precision=config.precision))
    return Engine(launcher, config.ladder(len(model.spec.sparse_features)))

Doctor = doctor.Doctor
doctor.Doctor = lambda model, engine, precision, device: Doctor(model, engine, precision)
doctor.TIMED_SECONDS, engine_checks.REPLAYS = 0, 4
measure_cost.BUCKET_SECONDS, measure_cost.machine_id = 0, lambda device: "tape"
slot_checks.SlotChecks._neighbours = lambda self, full: None
build.build_engine = build_engine
main()
"""


@pytest.fixture(scope="module")
def taped(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], str]:
    """What the doctor says of graphs, as JSON; and the picture of one."""
    picture = tmp_path_factory.mktemp("drawn") / "graph.dot"
    arguments = ("doctor", "--device", "cuda", "--precision", "tf32", "--buckets", "1,2", "--json", "--dot", picture)
    ended = run_python("-c", TAPED, *arguments)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), picture.read_text()


def test_graphs_are_told_by_nodes_and_options(taped: tuple[dict[str, object], str]) -> None:
    told, _ = taped
    assert told["healthy"] is True
    assert told["engine"] == {
        "device": "cuda",
        "bucket_rows": [1, 2],
        "engine": "plan",
        "precision": "tf32",
        "ids_per_row": None,
        "kernels": "fbgemm",
        "lanes": 1,
        "slots": 2,
        "completion": "event",
        "graph_memory_mib": None,
    }
    buckets = told["buckets"]
    assert isinstance(buckets, list)
    cost = told["cost"]
    assert isinstance(cost, dict)
    assert (cost["device"], cost["machine"], cost["shared_loop"]) == ("cuda", "tape", False)
    assert all(report["nodes"] > 10 and report["kernels"].startswith("tf32 fbgemm: ") for report in buckets)


def test_picture_is_of_a_graph(taped: tuple[dict[str, object], str]) -> None:
    _, picture = taped
    assert picture.startswith("digraph")
    assert "split_embedding_codegen_forward" in picture


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--device", "cpu", "--dot", "graph.dot"), "a CPU plan has no graph to draw: --dot is for --device cuda"),
        (("--engine", "eager"), "--engine eager captures nothing that could be examined"),
    ],
)
def test_what_cannot_be_examined_is_refused_as_usage(arguments: tuple[str, ...], said: str) -> None:
    ended = narsil("doctor", *arguments)
    assert ended.returncode == 2
    assert only_sentence(ended) == said


def test_int8_without_ranges_is_refused_in_one_sentence(tmp_path: Path) -> None:
    archive, output = draft(Shape()).write(tmp_path / "ctr.pt"), tmp_path / "ctr.safetensors"
    assert narsil("import", archive, "-o", output).returncode == 0
    ended = narsil("doctor", output, "--device", "cpu", "--precision", "int8")
    assert ended.returncode == 1
    assert "run narsil-graph calibrate" in only_sentence(ended)


def test_doctor_refuses_wrong_buckets_as_usage() -> None:
    said = usage_error(narsil("doctor", "--buckets", "2,1"))
    assert said == "Invalid value for '--buckets': want row counts of at least 1 that increase, got '2,1'"

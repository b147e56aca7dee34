"""`plan` reads a trace and costs, prints both ladders and writes the settings, or says in a sentence why not."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from narsil_graph.commands.plan import plan
from narsil_graph.cost_file import CostFile
from narsil_graph.engine.graph_memory import MIB, GraphMemory
from narsil_graph.errors import Failure, UsageFailure
from narsil_graph.model.weights import Model
from narsil_graph.trace import TRACE_DTYPE, TraceHeader
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import LaunchCost
from tests.serving.processes import DEMO

FEATURES = 4
HEADER = TraceHeader(
    model="demo",
    version="abc",
    machine="box",
    ladder=BucketLadder.from_rows((1, 8), ids_per_row=4 * FEATURES),
    started_unix_ns=0,
)
COSTS = CostFile(
    model="demo",
    version="abc",
    machine="box",
    device="cpu",
    engine="plan",
    precision="f32",
    threads=1,
    shared_loop=True,
    launches=tuple((Bucket(rows, rows), LaunchCost(100_000 + rows * 7_000, 10**7)) for rows in (1, 100, 512)),
    request_us=20.0,
    reply_us=10.0,
)


class Folder:
    """The files that a planner reads, and the one it writes."""

    def __init__(self, path: Path) -> None:
        self.trace, self.cost, self.config = path / "trace", path / "cost.json", path / "narsil.toml"
        COSTS.save(self.cost)
        self.record({20: 50, 100: 40, 130: 9, 300: 1})

    def record(self, requests: dict[int, int], *, header: TraceHeader = HEADER, ids_per_row: float = FEATURES) -> None:
        rows = np.repeat([*requests], [*requests.values()])
        records = np.zeros(len(rows), TRACE_DTYPE)
        records["rows"], records["ids"] = rows, rows * ids_per_row
        self.trace.write_bytes(header.line() + records.tobytes())

    def plan(self, *options: object, write: bool = True) -> str:
        """What it printed; raises what it raised."""
        output = ("-o", self.config) if write else ()
        arguments = ["--trace", self.trace, "--cost", self.cost, "--max-buckets", 2, *output, *options]
        ended = CliRunner().invoke(plan, list(map(str, arguments)))
        if ended.exception is not None:
            raise ended.exception
        return ended.stdout

    def refusal(self, *options: object) -> str:
        """Its one sentence; nothing has been written."""
        before = self.config.read_bytes() if self.config.exists() else None
        with pytest.raises(Failure) as failure:
            self.plan(*options)
        assert before == (self.config.read_bytes() if self.config.exists() else None)
        assert sorted(path.name for path in self.config.parent.iterdir() if path.name.endswith(".partial")) == []
        assert "\n" not in str(failure.value)
        return str(failure.value)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_plan_is_printed_beside_powers_of_two(folder: Folder) -> None:
    lines = folder.plan(write=False).splitlines()
    assert lines[0] == "100 requests of 20 to 300 rows, 64.7 on average"
    assert lines[1].split() == ["buckets", "us", "a", "request", "over", "ideal", "padded", "rows", "us", "if", "split"]
    # 90 of 100 rows and 10 of 300: 90 * 800 + 10 * 2200; powers of two are 256 and 300: 99 * 1892 + 2200.
    assert lines[2].split() == ["planned", "2", "940.0", "70.0%", "85.5%", "886.0"]
    assert lines[3].split()[:5] == ["powers", "of", "two", "2", "1895.1"]
    assert lines[4].split() == ["a", "bucket", "each", "552.9"]
    assert lines[5:] == ["buckets = [100, 300]", "ids_per_row = 16"]
    assert not folder.config.exists()


def test_buckets_are_written_into_a_new_config(folder: Folder) -> None:
    assert folder.plan().splitlines()[-1] == f"wrote {folder.config}"
    assert folder.config.read_text() == "buckets = [100, 300]\nids_per_row = 16\n"


def test_what_else_a_config_says_stays(folder: Folder) -> None:
    folder.config.write_text('# ours\nbuckets = [1, 2]  # old\nbind = "tcp://*:5555"\nlanes = 2')
    folder.plan()
    kept = '# ours\nbuckets = [100, 300]\nbind = "tcp://*:5555"\nlanes = 2'
    assert folder.config.read_text() == kept + "\nids_per_row = 16\n"


def test_buckets_are_appended_where_there_were_none(folder: Folder) -> None:
    folder.config.write_text("ids_per_row = 9")
    folder.plan()
    assert folder.config.read_text() == "ids_per_row = 16\nbuckets = [100, 300]\n"


def test_bags_want_room_for_their_ids(folder: Folder) -> None:
    folder.record({20: 50, 100: 40, 300: 1}, ids_per_row=20.5)
    folder.plan()
    assert tomllib.loads(folder.config.read_text()) == {"buckets": [100, 300], "ids_per_row": 21}


def test_room_for_ids_is_one_per_feature_at_least(folder: Folder, model: Model) -> None:
    folder.record({20: 50, 100: 40, 300: 1}, ids_per_row=0.35, header=replace(HEADER, version=model.version))
    replace(COSTS, version=model.version).save(folder.cost)
    assert f"ids_per_row = {len(model.spec.sparse_features)}" in folder.plan("--model", DEMO)


def test_one_id_per_feature_needs_no_word_of_ids(folder: Folder, model: Model) -> None:
    features = len(model.spec.sparse_features)
    folder.record({100: 40, 300: 1}, ids_per_row=features, header=replace(HEADER, version=model.version))
    replace(COSTS, version=model.version).save(folder.cost)
    folder.plan("--model", DEMO)
    assert folder.config.read_text() == "buckets = [100, 300]\n"


def test_larger_requests_than_rows_max_are_split(folder: Folder) -> None:
    # 130 is 100 and 30.
    assert "buckets = [30, 100]" in folder.plan("--rows-max", 100)


def test_graph_memory_bounds_the_ladder(folder: Folder, model: Model) -> None:
    header = replace(HEADER, version=model.version, ladder=BucketLadder.from_rows((1, 8), ids_per_row=400))
    folder.record(
        dict.fromkeys(range(20, 513, 20), 5) | {512: 1}, header=header, ids_per_row=len(model.spec.sparse_features)
    )
    replace(COSTS, version=model.version, device="cuda").save(folder.cost)

    def needed_mib(rows: list[int]) -> float:
        ladder = BucketLadder.from_rows(rows, ids_per_row=400)
        return GraphMemory(spec=model.spec, ladder=ladder, dense_bytes=4, lanes=3, slots_per_lane=2).total_bytes / MIB

    options = ("--model", DEMO, "--lanes", 3, "--max-buckets", 12)
    folder.plan(*options)
    free = tomllib.loads(folder.config.read_text())["buckets"]
    least, most = needed_mib([512]), needed_mib(free)
    budget_mib = int((least + most) / 2)
    folder.plan(*options, "--graph-memory", budget_mib)
    bounded = tomllib.loads(folder.config.read_text())["buckets"]
    assert least < needed_mib(bounded) <= budget_mib < most
    assert len(bounded) > 1 and bounded != free

    sentence = folder.refusal(*options, "--graph-memory", int(least) - 1)
    need = f"{least:.1f} MiB that one bucket of 512 rows needs"
    assert sentence == f"--graph-memory {int(least) - 1} MiB is less than the {need}"


def test_graph_memory_without_the_model_is_refused(folder: Folder) -> None:
    with pytest.raises(UsageFailure, match=r"^--graph-memory wants --model"):
        folder.plan("--graph-memory", 100)


def test_graph_memory_of_a_cpu_is_refused(folder: Folder, model: Model) -> None:
    folder.record({8: 1}, header=replace(HEADER, version=model.version))
    replace(COSTS, version=model.version).save(folder.cost)
    assert "these are of cpu" in folder.refusal("--graph-memory", 100, "--model", DEMO)


def test_model_that_was_not_recorded_is_refused(folder: Folder, model: Model) -> None:
    assert folder.refusal("--model", DEMO) == f"{DEMO} has version {model.version}, the trace is of version abc"


@pytest.mark.parametrize("content", [b"", b"not a trace\n", HEADER.line()])
def test_trace_that_is_none_is_refused(folder: Folder, content: bytes) -> None:
    folder.trace.write_bytes(content)
    assert folder.refusal().startswith(f"{folder.trace} is not a trace that can be used: ")


def test_costs_that_are_none_are_refused(folder: Folder) -> None:
    folder.cost.write_text(json.dumps({"format": "other"}))
    assert folder.refusal().startswith(f"{folder.cost} is not a cost file that can be used: ")


def test_costs_of_another_model_are_refused(folder: Folder) -> None:
    replace(COSTS, version="older").save(folder.cost)
    assert folder.refusal("--any-machine").startswith("the cost file is of model version older, not abc")


def test_costs_of_another_machine_are_refused_unless_any_will_do(folder: Folder) -> None:
    replace(COSTS, machine="laptop").save(folder.cost)
    assert folder.refusal().startswith("the cost file is of machine laptop, not box")
    assert "buckets = [100, 300]" in folder.plan("--any-machine")


def test_maximum_that_costs_do_not_reach_is_refused(folder: Folder) -> None:
    folder.record({20: 5, 1025: 1})
    sentence = "no ladder can be planned to cover 1025 rows by costs that were measured to 512: "
    assert folder.refusal().startswith(sentence)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("buckets = [\n 1,\n 2]\n", "cannot be changed line by line"),
        ("[server]\nbuckets = [1]\n", "cannot be changed line by line"),
        ("buckets = [1", "is not TOML"),
        ("hot_buckets = [8, 100]\n", "has hot_buckets 8, which is not planned"),
    ],
)
def test_config_that_cannot_take_the_plan_is_refused(folder: Folder, config: str, words: str) -> None:
    folder.config.write_text(config)
    assert words in folder.refusal()


def test_config_that_cannot_be_written_is_refused(folder: Folder) -> None:
    folder.config = folder.config.parent / "none" / "narsil.toml"
    with pytest.raises(Failure, match=r"^cannot write .*: No such file or directory$"):
        folder.plan()

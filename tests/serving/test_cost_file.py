"""A cost file gives back what was measured, and nothing else passes for one."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from narsil_graph.cost_file import CostFile, load_cost
from narsil_graph.errors import Failure
from narsil_graph.machine_id import machine_id, slug
from narsil_transport.buckets import Bucket
from narsil_transport.cost import LaunchCost

COSTS = CostFile(
    model="demo",
    version="abc",
    machine="box-2-cores",
    device="cpu",
    engine="plan",
    precision="f32",
    threads=1,
    shared_loop=True,
    launches=(
        (Bucket(1, 4), LaunchCost(68_123, 99_000)),
        (Bucket(8, 32), LaunchCost(188_000, 188_000)),
    ),
    request_us=20.5,
    reply_us=8.25,
)


def test_costs_are_read_as_saved(tmp_path: Path) -> None:
    COSTS.save(tmp_path / "c")
    assert load_cost(tmp_path / "c") == COSTS
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_cost_model_has_every_measured_cost() -> None:
    model = COSTS.cost_model()
    assert [(model.launch_ns(bucket), model.tail_ns(bucket)) for bucket in model.buckets] == [
        (68_123, 99_000),
        (188_000, 188_000),
    ]
    assert (model.request_ns, model.reply_ns) == (20_500, 8_250)


def test_curve_is_of_medians_by_rows() -> None:
    rows, medians_us = COSTS.curve()
    assert (rows.dtype, medians_us.dtype) == (np.dtype(np.int64), np.dtype(np.float64))
    assert (rows.tolist(), medians_us.tolist()) == ([1, 8], [68.123, 188.0])


def test_costs_of_the_same_model_and_machine_pass() -> None:
    COSTS.check("abc", "box-2-cores")
    COSTS.check(None, None)


@pytest.mark.parametrize(
    ("version", "machine", "said"),
    [
        ("abd", None, "the cost file is of model version abc, not abd: "),
        (None, "gpu", "the cost file is of machine box-2-cores, not gpu: "),
    ],
)
def test_costs_of_another_model_or_machine_are_refused(version: str | None, machine: str | None, said: str) -> None:
    with pytest.raises(Failure) as refused:
        COSTS.check(version, machine)
    assert str(refused.value) == said + "measure again with narsil-graph doctor --save-cost"


@pytest.mark.parametrize("place", ["none/c", "folder"])
def test_file_that_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(Failure, match=r"^cannot write .*: (No such file or|Is a) directory$"):
        COSTS.save(tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def launch(**fields: object) -> dict[str, object]:
    return {"rows": 1, "ids": 4, "median_us": 10.0, "p99_us": 20.0} | fields


def changed(**fields: object) -> bytes:
    return json.dumps(COSTS.to_dict() | fields).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[" * 100_000, "recursion"),
        (b"\xff\xfe", "codec can't decode"),
        (b"[]", "it is not a JSON object of format narsil-cost-1"),
        (changed(format="narsil-cost-2"), "it is not a JSON object of format narsil-cost-1"),
        (changed(model=None), "'model' wants text"),
        (changed(threads=True), "'threads' wants int"),
        (changed(threads=0), "want at least one thread, got 0"),
        (changed(shared_loop=1), "'shared_loop' wants bool"),
        (changed(request_us=-1), "want request_us of 0 to 1e+09, got -1.0"),
        (changed(reply_us=float("nan")), "'reply_us' wants a number of microseconds"),
        (changed(reply_us=10**400), "'reply_us' wants a number of microseconds"),
        (changed(reply_us="8"), "'reply_us' wants a number of microseconds"),
        (changed(launches={}), "'launches' wants list"),
        (changed(launches=[]), "want at least one bucket"),
        (changed(launches=[[1, 4, 10.0, 20.0]]), "'launches' wants objects"),
        (changed(launches=[launch(rows=1.0)]), "'rows' wants int"),
        (changed(launches=[launch(rows=0)]), "want a bucket of at least one row"),
        (changed(launches=[launch(rows=65537)]), "want buckets of at most 65536 rows, got 65537"),
        (changed(launches=[launch(rows=8), launch(rows=1)]), "want buckets that increase in rows"),
        (changed(launches=[launch(), launch()]), "want buckets that increase in rows"),
        (changed(launches=[launch(median_us=-10.0)]), "bucket 1: "),
        (changed(launches=[launch(median_us=0)]), "bucket 1: "),
        (changed(launches=[launch(p99_us=9.0)]), "bucket 1: "),
        (changed(launches=[launch(p99_us=float("inf"))]), "'p99_us' wants a number of microseconds"),
    ],
)
def test_what_is_no_cost_file_is_refused_in_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(Failure, match=r"/c is not a cost file that can be used: ") as refused:
        load_cost(tmp_path / "c")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(CostFile)])
def test_every_field_must_be_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "c").write_text(json.dumps({key: value for key, value in COSTS.to_dict().items() if key != name}))
    with pytest.raises(Failure, match=f"'{name}' wants"):
        load_cost(tmp_path / "c")


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"^cannot read the costs .*/c: No such file or directory$"):
        load_cost(tmp_path / "c")


def test_machine_is_one_word_that_does_not_change() -> None:
    assert machine_id("cpu") == machine_id("cpu") == slug(machine_id("cpu"))
    assert machine_id("cpu").endswith("-cores")


def test_slug_has_letters_digits_and_dashes_only() -> None:
    assert slug("Intel(R) Xeon(R) @ 2.60GHz 8 cores") == "intel-r-xeon-r-2-60ghz-8-cores"

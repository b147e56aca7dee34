"""The GPU benchmark where there is no GPU: its parts run on a tape device, and its report says what they found."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import replay, replay_sides
from benchmarks.device_clock import Rig, Tables, WallClock
from benchmarks.gpu_check import Runner, last_line, slug
from benchmarks.gpu_summary import LINES_MAX, PARTS, WIDTH_MAX, summary
from benchmarks.machine import Report
from narsil_graph.engine.cuda_graph import GraphSlot
from narsil_graph.engine.graph_options import GraphOptions
from narsil_graph.engine.launcher import Slot
from tests.engine.tape import TapeDevice
from tests.engine.tiny import tiny_model

MODEL = tiny_model()
# The others need CUDA's address space, Triton, or a server on a device.
ON_TAPE = ["sides", "breakdown", "curve", "capture", "kernels", "lanes"]
DEVICE = {"device": "Tape", "driver": None, "torch": "2.11.0"}
MACHINE = {"hardware": "a CPU", "versions": "torch 2.11.0", "commit": "0123abc", "date": "2026-01-02"}


def tape_rig() -> Rig:
    device = TapeDevice(lag=1)
    return Rig(MODEL, Path("tiny"), device, WallClock(device.finish), quick=True)


@pytest.fixture(scope="module")
def outcomes(fbgemm_library: None) -> dict[str, replay.Outcome]:
    return replay.run(tape_rig(), ON_TAPE, Report("test"), lost=lambda: False)


def checked(replayed: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What a GPU check with these replay parts has found."""
    bucket = {"rows": 128, "error": 1e-7, "replay_us_p50": 50.0, "eager_us_p50": 500.0, "nodes": 20}
    run = {"passed": True, "problem": None, "report": {"buckets": [bucket | {"rows": 1}, bucket]}}
    tests = {"passed": True, "result": "90 passed in 9.99s", "failed": []}
    doctor = {f"model {number}": run for number in range(9)}
    return {"machine": MACHINE, "device": DEVICE, "passed": True, "tests": tests, "doctor": doctor,
            "replay": replayed} | changes  # fmt: skip


def plain(outcomes: dict[str, replay.Outcome]) -> dict[str, Any]:
    """As it comes back from a part's own process."""
    found: dict[str, Any] = json.loads(json.dumps({name: asdict(outcome) for name, outcome in outcomes.items()}))
    return found


def test_every_part_has_a_result_on_a_tape(outcomes: dict[str, replay.Outcome]) -> None:
    assert {name: outcome.problem for name, outcome in outcomes.items()} == dict.fromkeys(ON_TAPE)
    for outcome in outcomes.values():
        for rows in outcome.tables.values():
            assert rows and all(row.keys() == rows[0].keys() for row in rows)


def test_sides_are_compared_in_every_precision_and_bucket(outcomes: dict[str, replay.Outcome]) -> None:
    events, wall = outcomes["sides"].tables.values()
    for rows in (events, wall):
        assert [(row["precision"], row["bucket"]) for row in rows] == [
            (precision, bucket) for precision in ("f32", "tf32", "bf16", "fp16") for bucket in (100, 128)
        ]


def test_stages_of_a_launch_come_to_its_total(outcomes: dict[str, replay.Outcome]) -> None:
    (rows,) = outcomes["breakdown"].tables.values()
    ways = [("torch", "event"), ("torch", "sequence"), ("torch", "blocking")]
    assert [(row["launch"], row["completion"]) for row in rows] == ways
    rig = tape_rig()
    engine = rig.captured((100,), GraphOptions())
    slot: Slot = engine.captured[engine.ladder.buckets[0]].slots[0]
    assert isinstance(slot, GraphSlot)
    graph, event = slot.one_id, slot.event
    taken = replay_sides.Stepped(engine, slot, bound=False, blocking=False)
    taken.run(rig.request(100), 1)
    row: dict[str, Any] = taken.row()
    assert row["host work"] + row["wait"] == pytest.approx(row["total"])
    assert row["fill"] + row["launch call"] + row["wait"] + row["read"] == pytest.approx(row["total"])
    assert row["queries"] == 2
    assert (slot.one_id, slot.event) == (graph, event), "the stopwatches were left in the slot"


def test_capture_is_told_for_every_bucket_largest_first(outcomes: dict[str, replay.Outcome]) -> None:
    (rows,) = outcomes["capture"].tables.values()
    assert [row["rows"] for row in rows] == ["prepare", 8, 4, 1] * 2


def test_part_that_raises_is_reported_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(rig: Rig) -> Tables:
        raise ValueError("first line\nsecond line")

    monkeypatch.setattr(replay_sides, "breakdown", broken)
    found = replay.run(tape_rig(), ["breakdown", "capture"], Report("test"), lost=lambda: False)
    assert found["breakdown"].problem == "ValueError: first line"
    assert "second line" in found["breakdown"].traceback
    assert found["capture"].problem is None
    found = replay.run(tape_rig(), ["breakdown", "capture"], Report("test"), lost=lambda: True)
    assert list(found) == ["breakdown"], "nothing is measured on a lost device"


def test_summary_of_a_whole_check_fits(outcomes: dict[str, replay.Outcome]) -> None:
    parts = plain(outcomes)
    # As many rows as a device gives, of the parts that are short here.
    for name, count in (("breakdown", 6), ("curve", 26)):
        title, rows = next(iter(parts[name]["tables"].items()))
        parts[name]["tables"][title] = (rows * count)[-count:]
    copies = {"rows": 1, "copy node + kernel us": 9.0, "kernel on host memory us": 8.0}
    load = {"in flight": 16, "client processes": 4, "samples/s": 1e6, "p50 us": 9.0, "p99 us": 9.0, "p99/p50": 1.0}
    parts |= {"zero_copy": {"tables": {"t": [copies] * 4}}, "served": {"tables": {"t": [load] * 2}}}
    assert parts.keys() == PARTS.keys() == replay.PARTS.keys()
    lines = summary(checked(parts))
    assert lines[0] == "GPU check: PASSED  2026-01-02  commit 0123abc"
    assert len(lines) <= LINES_MAX and not lines[-1].endswith("more lines)")
    assert max(map(len, lines)) < WIDTH_MAX, "a line was cut"
    assert len("\n".join(lines)) < 12_000


def test_summary_says_what_failed() -> None:
    tests = {"passed": False, "result": "1 failed", "failed": ["FAILED tests/gpu/test_graphs.py::test_x - boom"]}
    doctor = {"demo f32": {"passed": False, "problem": "bucket 8: nodes: too many", "report": {}}}
    lost = {"sides": {"problem": "DeviceFault: CUDA failed", "tables": {}}}
    text = "\n".join(summary(checked(lost, passed=False, tests=tests, doctor=doctor)))
    for said in (
        "GPU check: FAILED",
        "tests/gpu: FAILED: 1 failed",
        "::test_x - boom",
        "demo f32: FAILED: bucket 8: nodes: too many",
        "sides: no result: DeviceFault: CUDA failed",
    ):
        assert said in text


def test_step_is_stopped_at_its_limit_and_none_begins_without_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu_check.STEP_MIN_S", 0.01)
    runner = Runner(60.0)
    begin = time.monotonic()
    stopped = runner.run("endless", 0.2, "-c", "while True: pass")
    assert time.monotonic() - begin < 10
    assert stopped.code is None and not stopped.passed and last_line(stopped.errors) == "stopped after 0 s"
    assert runner.run("fine", 30, "-c", "import narsil_client; print('said')").passed
    assert last_line(runner.steps[-1].output) == "said"
    assert Runner(0.0).run("late", 30, "-c", "").errors == "not run: the time for all was used up"


def test_report_is_named_by_date_device_and_commit() -> None:
    assert slug("2026-01-02 NVIDIA H200 0123abc + changes") == "2026-01-02-nvidia-h200-0123abc-changes"

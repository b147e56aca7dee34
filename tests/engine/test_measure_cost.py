"""Start-up measures each captured bucket, and the messages of the model, on the machine that will serve."""

import time

import pytest

from narsil_graph import measure_cost
from narsil_graph.build import EngineConfig
from narsil_graph.engine.eager import EagerForward
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.launcher import Slot
from narsil_graph.limits import limits_of
from narsil_graph.machine_id import machine_id
from narsil_graph.measure_cost import launch_cost, measure, measure_bucket, measure_messages, to_cost_file
from narsil_transport.admission import ModelLimits
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.wire import encode_scores
from tests.engine.tiny import tiny_model

MODEL = tiny_model()
LADDER = BucketLadder.from_rows((2, 16), ids_per_row=12)
LARGEST = LADDER.buckets[-1]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_cost, "BUCKET_SECONDS", 0.0)


class Counted(EagerForward):
    """Notes the rows of every launch, and takes ``seconds`` for it."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        super().__init__(MODEL)
        self.rows: list[int] = []
        self._seconds = seconds

    def launch(self, slot: Slot) -> None:
        self.rows.append(slot.arena.bucket.rows)
        super().launch(slot)
        end = time.perf_counter() + self._seconds
        while time.perf_counter() < end:
            pass


def captured(launcher: EagerForward) -> Engine:
    engine = Engine(launcher, LADDER)
    engine.capture_all(lambda bucket, captured: None)
    return engine


def limits(rows_max: int = 100) -> ModelLimits:
    return limits_of(MODEL.spec, rows_max=rows_max, ids_per_row_max=12)


def test_every_captured_bucket_and_both_messages_are_measured() -> None:
    cost = measure(captured(EagerForward(MODEL)), MODEL, limits())
    assert cost.buckets == LADDER.buckets
    assert all(0 < cost.launch_ns(bucket) <= cost.tail_ns(bucket) for bucket in cost.buckets)
    assert cost.request_ns > 0
    assert cost.reply_ns > 0


def test_only_captured_buckets_are_measured() -> None:
    engine = Engine(EagerForward(MODEL), LADDER)
    engine.prepare()
    engine.capture(LARGEST)
    assert measure(engine, MODEL, limits()).buckets == (LARGEST,)


def test_bucket_takes_turns_with_all_others_and_leaves_the_engine_idle() -> None:
    launcher = Counted()
    engine = captured(launcher)
    launcher.rows.clear()
    measure_bucket(engine, MODEL, LARGEST)
    assert launcher.rows[1::2] == [LARGEST.rows] * 14
    assert set(launcher.rows[::2]) == {bucket.rows for bucket in LADDER.buckets}
    assert engine.idle


def test_cost_of_a_bucket_is_what_its_launch_takes() -> None:
    cost = measure_bucket(captured(Counted(seconds=0.002)), MODEL, LARGEST)
    assert cost.median_ns >= 2_000_000


def test_first_launches_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = list[list[int]]()

    def noted(taken_ns: list[int]) -> LaunchCost:
        counted.append(taken_ns)
        return launch_cost(taken_ns)

    monkeypatch.setattr(measure_cost, "launch_cost", noted)
    measure_bucket(captured(EagerForward(MODEL)), MODEL, LARGEST)
    assert [len(times) for times in counted] == [12]


def test_p99_of_few_launches_is_the_longest() -> None:
    assert launch_cost([30, 10, 20, 90, 15]) == LaunchCost(20, 90)


def test_p99_of_many_launches_leaves_the_longest_out() -> None:
    assert launch_cost(list(range(100, 301))) == LaunchCost(200, 298)


def test_launch_that_waited_for_the_machine_is_no_cost_of_the_launch() -> None:
    assert launch_cost([10, 11, 12, 13, 7_000]) == LaunchCost(11, 13)


@pytest.mark.parametrize(("rows_max", "rows"), [(4096, 100), (7, 7)])
def test_messages_are_of_100_rows_or_the_most_that_are_taken(
    monkeypatch: pytest.MonkeyPatch, rows_max: int, rows: int
) -> None:
    seen = set[int]()

    def noted(*arguments: object) -> tuple[bytes, bytes]:
        seen.add(len(arguments[-1]))  # type: ignore[arg-type]
        return encode_scores(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(measure_cost, "encode_scores", noted)
    request_ns, reply_ns = measure_messages(captured(EagerForward(MODEL)), MODEL, limits(rows_max))
    assert seen == {rows}
    assert request_ns > 0
    assert reply_ns > 0


@pytest.mark.parametrize(
    ("engine", "device", "shared"), [("plan", "cpu", True), ("plan", "cuda", False), ("eager", "cuda", True)]
)
def test_file_says_whose_costs_it_has(monkeypatch: pytest.MonkeyPatch, engine: str, device: str, shared: bool) -> None:
    monkeypatch.setattr(measure_cost, "machine_id", lambda device: f"a {device}")
    launches = {Bucket(2, 8): LaunchCost(1_000, 2_000), Bucket(9, 36): LaunchCost(4_000, 4_000)}
    cost = CostModel(launches, request_ns=12_500, reply_ns=6_000)
    made = to_cost_file(
        cost, model=MODEL, config=EngineConfig(device=device, bucket_rows=(2, 9), engine=engine), threads=3
    )
    assert (made.model, made.version, made.machine) == ("tiny", MODEL.version, f"a {device}")
    assert (made.device, made.engine, made.precision, made.threads) == (device, engine, "f32", 3)
    assert made.shared_loop is shared
    assert dict(made.launches) == launches
    assert (made.request_us, made.reply_us) == (12.5, 6.0)


def test_machine_of_a_cpu_is_this_one() -> None:
    cost = CostModel({Bucket(2, 8): LaunchCost(1_000, 2_000)})
    made = to_cost_file(cost, model=MODEL, config=EngineConfig(device="cpu", bucket_rows=(2,)), threads=1)
    assert made.machine == machine_id("cpu")

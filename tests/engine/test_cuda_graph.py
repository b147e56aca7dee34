"""The CUDA launcher on a tape device: what it captures scores the model, in phases, and a launch is one replay."""

import numpy as np
import pytest
from numpy.typing import NDArray

from narsil_graph.engine.cuda_graph import POLLS_PER_QUERY, CudaGraphs, GraphSlot
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.exact import exact_scores
from narsil_graph.engine.forward import Forward
from narsil_graph.engine.graph_nodes import GraphNode, NodeKind
from narsil_graph.engine.graph_options import Completion, GraphOptions
from narsil_graph.engine.launcher import DeviceFault, Precision
from narsil_graph.model.weights import Model
from narsil_transport.buckets import Bucket, BucketLadder
from narsil_transport.wire import InferRequest
from tests.engine.graph_requests import requests, scores_of, slots_of
from tests.engine.tape import TapeDevice, TapeGraph
from tests.engine.tiny import MIXED, SHAPES, Shape, bags_of, tiny_model

POISON_ID = 2**31 - 1
PLAIN = GraphOptions()
MODEL = tiny_model()
FEATURES = len(MODEL.spec.sparse_features)


def captured(
    device: TapeDevice, options: GraphOptions = PLAIN, *, model: Model = MODEL, rows: tuple[int, ...] = (2, 8)
) -> Engine:
    ladder = BucketLadder.from_rows(rows, ids_per_row=3 * len(model.spec.sparse_features))
    engine = Engine(CudaGraphs(model, device, options), ladder)
    engine.capture_all(lambda bucket, cost: None)
    return engine


def fill(slot: GraphSlot, request: InferRequest) -> None:
    slot.arena.fill([(request, 0, request.rows)])


@pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))
def test_graphs_score_the_model(shape: Shape) -> None:
    model = tiny_model(shape)
    engine, (ones, bags) = captured(TapeDevice(lag=1), model=model), requests(model)
    for batch in ([ones], [bags], [ones, bags], [bags, ones], [ones]):
        exact = np.concatenate([exact_scores(model, request) for request in batch])
        assert np.abs(scores_of(engine, *batch) - exact).max() <= 1e-6
        assert np.ptp(exact) > 1e-3, "scores that are all alike would prove nothing"
    assert [finding.problem for slot in slots_of(engine) for finding in engine.launcher.examine(slot)] == [None] * 4


@pytest.mark.parametrize(("precision", "tolerance"), [(Precision.BF16, 1e-2), (Precision.FP16, 1e-3)])
def test_half_precision_is_half_as_precise(precision: Precision, tolerance: float) -> None:
    model = tiny_model(MIXED)
    engine = captured(TapeDevice(), GraphOptions(precision=precision), model=model)
    for request in requests(model):
        error = np.abs(scores_of(engine, request) - exact_scores(model, request)).max()
        assert 1e-6 < error <= tolerance


@pytest.mark.parametrize(("precision", "allowed"), [(Precision.TF32, True), (Precision.F32, False)])
def test_tf32_is_settled_before_anything_runs(precision: Precision, allowed: bool) -> None:
    device = TapeDevice()
    captured(device, GraphOptions(precision=precision))
    assert device.calls[0] == f"tf32 {allowed}"


def test_tf32_is_settled_again_for_a_capture_after_that_of_another_engine() -> None:
    device = TapeDevice()
    one = captured(device, GraphOptions(precision=Precision.TF32))
    captured(device, GraphOptions(precision=Precision.F32))
    device.calls.clear()
    one.launcher.capture(one.ladder.buckets[0])
    assert device.calls[0] == "tf32 True"


def test_phases_follow_each_other_and_the_largest_comes_first() -> None:
    device = TapeDevice()
    engine = captured(device, GraphOptions(lanes=2, slots_per_lane=3), rows=(1, 2, 8))
    verbs = [call.split(" ")[0] for call in device.calls if not call.startswith("tf32")]
    steps = [verb for place, verb in enumerate(verbs) if verb != verbs[place - 1]]
    first_warm_up = steps.index("warm")
    assert steps[first_warm_up:] == ["warm", "capture"]
    assert (verbs.count("pinned"), verbs.count("warm"), verbs.count("capture")) == (3 * 6 * 2, 3 * 2 * 2, 3 * 6 * 2)
    pinned = [int(call.removeprefix("pinned ")) for call in device.calls if call.startswith("pinned")]
    for sizes in (pinned[::2], pinned[1::2]):
        assert sizes == sorted(sizes, reverse=True)
    assert [bucket.rows for bucket in engine.captured] == [8, 2, 1]


def test_a_launch_is_one_replay_and_one_mark() -> None:
    device = TapeDevice()
    (slot, _), (ones, bags) = slots_of(engine := captured(device)), requests(MODEL)
    for request in (ones, bags):
        fill(slot, request)
        device.calls.clear()
        engine.launcher.launch(slot)
        assert device.calls == ["replay", "record"]
        engine.launcher.wait(slot)


def test_one_id_per_bag_copies_the_arena_up_to_the_ids_and_bags_copy_it_all() -> None:
    slot, _ = slots_of(captured(TapeDevice()))
    copies = [
        [node.size_bytes for node in graph.nodes() if node.kind is NodeKind.MEMCPY]
        for graph in (slot.one_id, slot.bags)
    ]
    layout = slot.arena.layout
    assert copies == [[layout.values_begin + 8 * FEATURES * 4, 9 * 4], [layout.size_bytes, 9 * 4]]
    assert slot.nodes == len(slot.one_id.nodes())
    assert slot.kernels == f"f32 fbgemm: {slot.nodes - 2} kernels, 2 copies"


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_batch_is_filled_while_another_runs(lanes: int) -> None:
    engine, (ones, bags) = captured(TapeDevice(lag=2), GraphOptions(lanes=lanes)), requests(MODEL)
    bucket = engine.ladder.buckets[-1]
    first, second = (engine.submit(bucket, [(request, 0, request.rows)]) for request in (ones, bags))
    assert {first.slot.lane, second.slot.lane} == set(range(lanes))
    assert not engine.landed(second)
    for flight, request in ((second, bags), (first, ones)):
        scores = engine.finish(flight).scores[: request.rows]
        assert np.abs(scores - exact_scores(MODEL, request)).max() <= 1e-6
    assert engine.idle


def test_a_launch_that_has_not_finished_is_not_read() -> None:
    (slot, _), (ones, _) = slots_of(engine := captured(TapeDevice(lag=1))), requests(MODEL)
    fill(slot, ones)
    engine.launcher.launch(slot)
    assert not engine.launcher.ready(slot)
    with pytest.raises(DeviceFault, match="bucket 8 came back with sequence word 0 for 1"):
        engine.launcher.scores(slot)
    assert engine.launcher.ready(slot)
    assert np.abs(engine.launcher.scores(slot)[:4] - exact_scores(MODEL, ones)).max() <= 1e-6


def test_the_sequence_word_comes_round() -> None:
    engine = captured(TapeDevice())
    for slot in slots_of(engine):
        slot.sequence = 2**31 - 2
    ones, _ = requests(MODEL)
    first = scores_of(engine, ones)
    for _ in range(2):
        assert np.array_equal(scores_of(engine, ones), first)
    assert slots_of(engine)[0].sequence == 1


def test_polling_the_sequence_word_asks_the_event_once_it_is_there() -> None:
    device = TapeDevice(lag=1000)
    engine = captured(device, GraphOptions(completion=Completion.SEQUENCE))
    slot, (ones, _) = slots_of(engine)[0], requests(MODEL)
    fill(slot, ones)
    engine.launcher.launch(slot)
    device.calls.clear()
    assert not any(engine.launcher.ready(slot) for _ in range(POLLS_PER_QUERY - 1))
    assert device.calls == []
    device.finish()
    assert engine.launcher.ready(slot)
    assert device.calls == ["query"]


def test_polling_the_sequence_word_still_learns_of_a_fault() -> None:
    device = TapeDevice()
    engine = captured(device, GraphOptions(completion=Completion.SEQUENCE))
    slot, (ones, _) = slots_of(engine)[0], requests(MODEL)
    fill(slot, ones)
    engine.launcher.launch(slot)
    device.fail_at = "run"
    assert not any(engine.launcher.ready(slot) for _ in range(POLLS_PER_QUERY - 1))
    with pytest.raises(DeviceFault):
        engine.launcher.ready(slot)


@pytest.mark.parametrize("call", ["replay", "record", "run", "query"])
def test_a_fault_of_the_device_reaches_the_caller(call: str) -> None:
    device = TapeDevice()
    engine, (ones, _) = captured(device), requests(MODEL)
    device.fail_at = call
    with pytest.raises(DeviceFault):
        scores_of(engine, ones)


def test_a_wait_that_takes_long_goes_to_sleep() -> None:
    device = TapeDevice(lag=10**9)
    engine, (ones, _) = captured(device), requests(MODEL)
    scores = scores_of(engine, ones)
    assert device.calls[-1] == "synchronize"
    assert np.abs(scores - exact_scores(MODEL, ones)).max() <= 1e-6


@pytest.mark.parametrize("kind", ["one id", "bags"])
def test_what_lies_behind_the_batch_does_not_change_its_scores(kind: str) -> None:
    engine, request = captured(TapeDevice()), requests(MODEL)[kind == "bags"]
    clean = scores_of(engine, request)
    for slot in slots_of(engine):
        slot.arena.dense.fill(np.nan)
        slot.arena.values.fill(POISON_ID)
        slot.arena.offsets.fill(POISON_ID)
    assert np.array_equal(scores_of(engine, request), clean)
    slot = slots_of(engine)[0]
    fill(slot, request)
    slot.arena.dense[request.rows :] = np.nan
    slot.arena.values[slot.arena.ids :] = POISON_ID
    engine.launcher.launch(slot)
    engine.launcher.wait(slot)
    assert np.array_equal(engine.launcher.scores(slot)[: request.rows], clean)


@pytest.mark.parametrize("kind", ["one id", "bags"])
def test_an_id_out_of_range_reads_the_last_row_of_its_table(kind: str) -> None:
    engine, request = captured(TapeDevice()), requests(MODEL)[kind == "bags"]
    feature = next(feature for feature, bag in enumerate(bags_of(request)[0]) if bag)
    scores: list[NDArray[np.float32]] = []
    for slot, row in zip(slots_of(engine), (POISON_ID, MODEL.spec.feature_tables[feature].rows - 1), strict=True):
        fill(slot, request)
        slot.arena.values[slot.arena.offsets[feature]] = row
        engine.launcher.launch(slot)
        engine.launcher.wait(slot)
        scores.append(engine.launcher.scores(slot)[: request.rows])
    assert np.array_equal(scores[0], scores[1])


def test_buckets_in_any_order_score_alike() -> None:
    engine, (ones, bags) = captured(TapeDevice(), rows=(4, 6, 8)), requests(MODEL)
    first = {
        (bucket, kind): scores_of(engine, request, bucket=bucket)
        for bucket in range(3)
        for kind, request in enumerate((ones, bags))
    }
    order = [key for key in first for _ in range(4)]
    np.random.default_rng(0).shuffle(order)
    for bucket, kind in order:
        assert np.array_equal(scores_of(engine, (ones, bags)[kind], bucket=bucket), first[bucket, kind])


def test_smaller_buckets_and_launches_take_no_memory() -> None:
    device = TapeDevice()
    engine = captured(device, rows=(2, 4, 8))
    costs = [engine.captured[bucket].device_bytes for bucket in engine.ladder.buckets]
    assert costs[:2] == [0, 0] and costs[2] > 0
    before = engine.launcher.footprint()
    for request in requests(MODEL):
        scores_of(engine, request)
    assert engine.launcher.footprint() == before == device.footprint()
    assert before.pinned_bytes > 0


def test_weights_that_moved_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = captured(TapeDevice())
    weights = Forward.weights
    monkeypatch.setattr(Forward, "weights", lambda forward: (weights(forward)[0].clone(), *weights(forward)[1:]))
    found = {finding.check: finding.problem for finding in engine.launcher.examine(slots_of(engine)[0])}
    assert found["nodes"] is None
    assert found["weights"] is not None and found["weights"].startswith("1 weight tensors have moved")


@pytest.mark.parametrize("kind", ["one id", "bags"])
def test_a_graph_that_lacks_a_copy_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = captured(TapeDevice())
    slot, nodes = slots_of(engine)[0], TapeGraph.nodes
    broken = slot.one_id if kind == "one id" else slot.bags

    def without_its_last(graph: TapeGraph) -> tuple[GraphNode, ...]:
        return nodes(graph)[:-1] if graph is broken else nodes(graph)

    monkeypatch.setattr(TapeGraph, "nodes", without_its_last)
    found = {finding.check: finding.problem for finding in engine.launcher.examine(slot)}
    assert found["nodes"] is not None and found["nodes"].startswith(f"{kind}: the graph holds 1 copy")


def test_what_cannot_be_captured_is_refused() -> None:
    with pytest.raises(ValueError, match="got int8"):
        GraphOptions(precision=Precision.INT8)
    for lanes, slots_per_lane in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least one lane and one slot"):
            GraphOptions(lanes=lanes, slots_per_lane=slots_per_lane)
    with pytest.raises(ValueError, match="room for one id in every bag"):
        CudaGraphs(MODEL, TapeDevice(), PLAIN).prepare([Bucket(4, 4 * FEATURES - 1)])

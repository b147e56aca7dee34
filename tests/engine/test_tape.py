"""The tape device does to a program what CUDA graphs would: otherwise the tests on it would prove nothing."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from narsil_graph.engine.fbgemm import LookupTable, bind_lookup
from narsil_graph.engine.graph_nodes import FBGEMM_LOOKUP_KERNEL, NodeKind
from narsil_graph.engine.launcher import DeviceFault
from narsil_graph.model.spec import Pooling, RowFormat
from tests.engine.tape import TapeDevice
from tests.engine.tape_rig import ROWS, WIDTH, Operation, Rig, some_rows


def put(result: Tensor, *, into: list[Tensor], instead: Tensor) -> Tensor:
    into.append(result)
    return instead


def cat_into(x: Tensor) -> Tensor:
    joined = torch.empty(ROWS, 2 * WIDTH)
    torch.cat([x, x + 1], dim=1, out=joined)
    return joined


def in_place(x: Tensor) -> Tensor:
    changed = x * 2
    changed[1:, ::2].sub_(1).relu_()
    changed.t()[0].fill_(0.5)
    return changed


def rounded(x: Tensor) -> Tensor:
    halves = torch.empty(ROWS, WIDTH, dtype=torch.float16)
    halves.copy_(x)
    return halves.float()


def running_sums(x: Tensor) -> Tensor:
    return torch.cumsum((x * 9).int(), 1, dtype=torch.int32).float()


def searched(x: Tensor) -> Tensor:
    return torch.searchsorted(x.flatten().sort().values, x, right=True, out_int32=True).float()


OPERATIONS: dict[str, Operation] = {
    "views": lambda x: x.view(WIDTH, ROWS).t()[:, 1:3].reshape(-1),
    "in place": in_place,
    "out": cat_into,
    "cat": lambda x: torch.cat([x[:, :2], x[:, 4:]], dim=1),
    "index_select": lambda x: x.index_select(1, torch.arange(0, WIDTH, 2)),
    "bmm": lambda x: torch.bmm(x[None], x.t()[None]),
    "linear": lambda x: torch.relu(F.linear(x, x[:3], x[0, :3])),
    "cumsum": running_sums,
    "searchsorted": searched,
    "other dtype": rounded,
    "two results": lambda x: torch.sort(x, dim=0).indices.float(),
    "where": lambda x: torch.where(x > 0.5, 1.0 / x.clamp(min=0.1), 0.0),
}


@pytest.mark.parametrize("operation", list(OPERATIONS.values()), ids=list(OPERATIONS))
def test_replays_compute_what_the_program_does(operation: Operation) -> None:
    rig = Rig(operation)
    graph = rig.capture()
    results = [rig.score(graph, some_rows(seed)) for seed in range(3)]
    for seed, result in enumerate(results):
        assert torch.equal(result, operation(some_rows(seed)).float())
    assert not torch.equal(results[0], results[1]), "rows that cannot be told apart would prove nothing"


def test_replays_look_up_what_the_ids_say() -> None:
    device, lookup_rows = TapeDevice(), torch.arange(40, dtype=torch.float32).view(10, 4)
    lane, ids, found = device.open_lane(), device.pinned(8).view(torch.int32), device.pinned(32).view(torch.float32)
    lookup = bind_lookup(
        weights=device.place(lookup_rows.view(torch.uint8).view(-1)),
        tables=[LookupTable(0, 6, RowFormat.FP32), LookupTable(96, 4, RowFormat.FP32)],
        dim=4,
        pooling=Pooling.SUM,
        output=torch.float32,
        row_alignment_bytes=16,
    )
    resident, offsets = device.place(ids), device.place(torch.arange(3, dtype=torch.int32))

    def program() -> None:
        resident.copy_(ids, non_blocking=True)
        found.copy_(lookup(resident, offsets).view(-1), non_blocking=True)

    graph = lane.capture(program)
    for first, second in ((5, 0), (2, 3)):
        ids.copy_(torch.tensor([first, second]))
        graph.replay()
        device.finish()
        assert torch.equal(found.view(2, 4), lookup_rows[[first, 6 + second]])
    assert sum(FBGEMM_LOOKUP_KERNEL in node.name for node in graph.nodes()) == 1


def test_capture_leaves_memory_as_it_was() -> None:
    kept: list[Tensor] = []
    rig = Rig(lambda x: put(x + 1, into=kept, instead=x.sqrt_()))
    rig.pinned.fill_(4)
    rig.capture()
    assert rig.result.eq(0).all() and rig.resident.eq(1).all()
    assert kept[-1].isnan().all()


def test_python_values_are_those_of_the_capture() -> None:
    factor = 2.0
    rig = Rig(lambda x: x * factor)
    graph = rig.capture()
    factor = 3.0
    assert torch.equal(rig.score(graph, some_rows(0)), some_rows(0) * 2)


def test_a_rebound_weight_is_not_seen_but_one_changed_in_place_is() -> None:
    device = TapeDevice()
    weight = device.place(torch.ones(WIDTH))
    rig = Rig(lambda x: x * weight, device=device)
    graph, captured = rig.capture(), weight
    weight = device.place(torch.zeros(WIDTH))
    assert torch.equal(rig.score(graph, some_rows(0)), some_rows(0))
    captured.fill_(5)
    assert torch.equal(rig.score(graph, some_rows(0)), some_rows(0) * 5)


def test_reading_early_reads_the_old_scores() -> None:
    rig = Rig(lambda x: x + 1, device=TapeDevice(lag=2))
    graph = rig.capture()
    old = rig.score(graph, some_rows(0))
    rig.pinned.copy_(some_rows(1))
    graph.replay()
    rig.event.record()
    for _ in range(2):
        assert not rig.event.query()
        assert torch.equal(rig.result, old)
    assert rig.event.query()
    assert torch.equal(rig.result, some_rows(1) + 1)


def test_refilling_the_arena_of_a_pending_replay_changes_its_scores() -> None:
    rig = Rig(lambda x: x + 1)
    graph = rig.capture()
    rig.pinned.copy_(some_rows(0))
    graph.replay()
    rig.pinned.copy_(some_rows(1))
    rig.device.finish()
    assert torch.equal(rig.result, some_rows(1) + 1)


def test_an_event_passes_with_the_later_one_of_its_lane_only() -> None:
    device = TapeDevice(lag=1)
    first = Rig(lambda x: x, device=device)
    same_lane, other_lane = Rig(lambda x: x, device=device, lane=first.lane), Rig(lambda x: x, device=device)
    for rig in (graphs := {rig: rig.capture() for rig in (first, same_lane, other_lane)}):
        graphs[rig].replay()
        rig.event.record()
    same_lane.event.synchronize()
    assert first.event.query()
    assert not other_lane.event.query()


def test_an_event_that_was_never_recorded_has_passed() -> None:
    assert TapeDevice(lag=3).open_lane().event().query()


def test_what_a_graph_left_in_the_pool_is_gone_after_the_next() -> None:
    kept: list[Tensor] = []
    first = Rig(lambda x: put(x + 1, into=kept, instead=x))
    graph = first.capture()
    second = Rig(lambda x: x, device=first.device, lane=first.lane)
    other = second.capture()
    first.score(graph, some_rows(0))
    assert torch.equal(kept[-1], some_rows(0) + 1)
    second.score(other, some_rows(0))
    assert kept[-1].isnan().all()


def test_graphs_of_a_lane_share_its_pool_and_replays_take_nothing() -> None:
    device = TapeDevice(memory_bytes=10_000)
    large, other = Rig(lambda x: torch.cat([x, x]), device=device), Rig(lambda x: x + 1, device=device)
    small = Rig(lambda x: x + 1, device=device, lane=large.lane)
    before = device.footprint()
    assert (before.device_bytes, before.pinned_bytes) == (3 * 96, 3 * 96 + 192 + 96 + 96)
    graph = large.capture()
    kept = [graph, small.capture()]
    assert device.footprint().device_bytes - before.device_bytes == 192
    kept.append(other.capture())
    assert device.footprint().device_bytes - before.device_bytes == 192 + 96
    large.score(graph, some_rows(0))
    assert device.footprint().device_bytes - before.device_bytes == 192 + 96
    assert device.free_bytes() == 10_000 - device.footprint().device_bytes


@pytest.mark.parametrize("call", ["pinned", "place", "warm up", "capture", "replay", "run", "query", "synchronize"])
def test_a_fault_is_raised_where_it_was_asked_for_and_at_every_call_after(call: str) -> None:
    device = TapeDevice()
    device.fail_at = call
    with pytest.raises(DeviceFault, match=call):
        rig = Rig(lambda x: x, device=device)
        rig.lane.warm_up(rig.program)
        rig.score(rig.capture(), some_rows(0))
        rig.event.query()
    last = device.calls[-1]
    assert last.startswith("synchronize" if call == "run" else call)
    device.fail_at = ""
    with pytest.raises(DeviceFault):
        device.open_lane()


def test_calls_are_noted_in_order() -> None:
    rig = Rig(lambda x: x)
    rig.lane.warm_up(rig.program)
    rig.score(rig.capture(), some_rows(0))
    assert rig.device.calls == [
        *("open lane", "pinned 96", "place 96", "pinned 96"),
        *("warm up", "capture", "replay", "record", "synchronize"),
    ]


def test_nodes_are_the_copies_and_the_kernels(tmp_path: Path) -> None:
    graph = Rig(lambda x: torch.relu(x[:, 1:].contiguous())).capture()
    into, gather, relu, back = graph.nodes()
    assert (into.kind, into.size_bytes) == (NodeKind.MEMCPY, ROWS * WIDTH * 4)
    assert (gather.kind, gather.name) == (NodeKind.KERNEL, "aten.clone.default")
    assert (relu.kind, relu.name) == (NodeKind.KERNEL, "aten.relu.default")
    assert (back.kind, back.size_bytes) == (NodeKind.MEMCPY, ROWS * (WIDTH - 1) * 4)
    graph.write_dot(tmp_path / "graph.dot")
    assert "aten.relu.default" in (tmp_path / "graph.dot").read_text()

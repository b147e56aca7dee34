"""The doctor finds healthy graphs healthy, and each kind of broken one broken, on a device that is a tape."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from narsil_graph.engine import doctor, engine_checks
from narsil_graph.engine.cuda_graph import CudaGraphs, GraphSlot, Memory
from narsil_graph.engine.graph_nodes import FBGEMM_LOOKUP_KERNEL, GraphNode, NodeKind
from narsil_graph.engine.graph_options import Completion, GraphOptions
from narsil_graph.engine.launcher import Precision, Slot
from narsil_transport.buckets import Bucket
from tests.engine.examined import captured, examined, problems_of
from tests.engine.tape import TapeDevice, TapeGraph
from tests.engine.tiny import FP32, INT4, INT8, MEAN, SUM, Shape, tiny_model

SHAPES = {
    "one format": Shape(),
    "mixed formats": Shape(formats=(INT4, FP32, INT8)),
    "mixed poolings": Shape(poolings=(SUM, MEAN)),
    "mean": Shape(poolings=(MEAN,)),
}
SLOT_CHECKS = ["parity", "eager", "repeat", "stale", "padding", "neighbours", "nodes", "weights"]
ENGINE_CHECKS = ["capture", "interleave", "growth", "ids"]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tape replays in milliseconds, and what a launch does to it once it does every time."""
    monkeypatch.setattr(doctor, "TIMED_SECONDS", 0.0)
    monkeypatch.setattr(engine_checks, "REPLAYS", 12)


def found_in(
    launcher_type: type[CudaGraphs], *, rows: tuple[int, ...] = (1, 8), precision: Precision = Precision.F32
) -> dict[str, str]:
    """The problems, by check, of graphs made by ``launcher_type``; how they end is under "fault".

    Without "neighbours": the tape's products are the CPU's, where the bits of a float32 row depend on its place. That
    check is tested on the CPU plan, which takes none but kernels of which that is not so.
    """
    model = tiny_model()
    options = GraphOptions(precision=precision)
    diagnosis = examined(model, captured(model, launcher_type(model, TapeDevice(), options), rows=rows), precision)
    problems = {check: text for check, text in problems_of(diagnosis).items() if check != "neighbours"}
    return problems | ({} if diagnosis.fault is None else {"fault": diagnosis.fault})


@pytest.mark.parametrize("precision", [Precision.F32, Precision.TF32, Precision.BF16, Precision.FP16])
@pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))
def test_graphs_are_healthy_in_every_shape_and_arithmetic(shape: Shape, precision: Precision) -> None:
    model = tiny_model(shape)
    launcher = CudaGraphs(model, TapeDevice(lag=2), GraphOptions(precision=precision))
    diagnosis = examined(model, captured(model, launcher, rows=(1, 4, 8)), precision)
    assert problems_of(diagnosis).keys() <= {"neighbours"}
    assert diagnosis.fault is None
    assert [finding.check for finding in diagnosis.findings] == ENGINE_CHECKS
    for report in diagnosis.reports:
        assert [finding.check for finding in report.findings] == SLOT_CHECKS
        assert report.nodes > 10
        assert report.kernels.startswith(f"{precision.value} fbgemm: ")
        assert report.eager_error is not None and report.eager_error <= doctor.EAGER_TOLERANCES[precision]


def test_slots_of_several_lanes_are_healthy_by_the_sequence_word() -> None:
    model = tiny_model()
    options = GraphOptions(lanes=2, slots_per_lane=2, completion=Completion.SEQUENCE)
    diagnosis = examined(model, captured(model, CudaGraphs(model, TapeDevice(lag=1), options), rows=(1, 8)))
    assert problems_of(diagnosis).keys() <= {"neighbours"}
    assert diagnosis.fault is None


class Offset(CudaGraphs):
    def _copy_out(self, memory: Memory, scores: Tensor) -> None:
        super()._copy_out(memory, scores + 5e-3)


def test_bound_from_the_eager_forward_is_tighter_than_that_from_float64() -> None:
    found = found_in(Offset, precision=Precision.FP16)
    assert list(found) == ["eager"]
    assert "off the eager forward, more than 2e-03" in found["eager"]


def test_problem_says_in_which_slot_it_is() -> None:
    model = tiny_model()
    engine = captured(model, CudaGraphs(model, TapeDevice(), GraphOptions()), rows=(1,))
    _, slot = engine.captured[engine.ladder.buckets[0]].slots
    slot.program = slot.program
    assert isinstance(slot, GraphSlot) and isinstance(slot.one_id, TapeGraph)
    slot.one_id = slot.bags
    (problem,) = (text for text in examined(model, engine).problems if ": nodes: " in text)
    assert problem.startswith("bucket 1: nodes: slot 1: one id: the graph copies ")


def without_lookup(nodes: Iterable[GraphNode]) -> list[GraphNode]:
    return [node for node in nodes if FBGEMM_LOOKUP_KERNEL not in node.name]


NODE_SPOILS: dict[str, tuple[Callable[[tuple[GraphNode, ...]], Iterable[GraphNode]], str]] = {
    "no lookup": (without_lookup, "0 kernels named"),
    "host node": (lambda nodes: (*nodes, GraphNode(NodeKind.HOST)), "1 host call"),
    "allocation": (lambda nodes: (*nodes, GraphNode(NodeKind.MEM_ALLOC)), "1 memory allocation"),
    "empty": (lambda nodes: (), "the graph is empty"),
}


@pytest.mark.parametrize(("spoil", "said"), list(NODE_SPOILS.values()), ids=list(NODE_SPOILS))
def test_wrong_nodes_are_found(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[tuple[GraphNode, ...]], Iterable[GraphNode]], said: str
) -> None:
    nodes = TapeGraph.nodes
    monkeypatch.setattr(TapeGraph, "nodes", lambda graph: tuple(spoil(nodes(graph))))
    found = found_in(CudaGraphs, rows=(1,))
    assert list(found) == ["nodes"]
    assert said in found["nodes"]


class CopiesTwice(CudaGraphs):
    def _copy_in(self, memory: Memory, size_bytes: int) -> None:
        super()._copy_in(memory, size_bytes)
        super()._copy_in(memory, size_bytes)


def test_extra_copy_is_found() -> None:
    found = found_in(CopiesTwice)
    assert list(found) == ["nodes"]
    assert "3 copies" in found["nodes"]


class Rebinds(CudaGraphs):
    """A refresh of weights that makes new ones once the first bucket has been captured."""

    def capture(self, bucket: Bucket) -> tuple[Slot, ...]:
        slots = super().capture(bucket)
        fresh = [(weight.clone(), bias) for weight, bias in self._forward.over_layers]
        self._forward.over_layers = tuple(fresh)
        return slots


def test_weights_that_were_rebound_after_capture_are_found() -> None:
    found = found_in(Rebinds, rows=(8,))
    assert list(found) == ["weights"]
    assert found["weights"].startswith("slot 0: 2 weight tensors have moved since capture")


class GrowsPool(CudaGraphs):
    def launch(self, slot: Slot) -> None:
        self._device.place(torch.zeros(100))
        super().launch(slot)


class GrowsPinned(CudaGraphs):
    def launch(self, slot: Slot) -> None:
        self._device.pinned(64)
        super().launch(slot)


def test_growth_of_device_pools_is_found() -> None:
    found = found_in(GrowsPool)
    assert list(found) == ["growth"]
    assert found["growth"].startswith("12 launches changed device pools by 4800 bytes: ")


def test_growth_of_page_locked_memory_is_found() -> None:
    assert found_in(GrowsPinned)["growth"].startswith("12 launches changed page-locked memory by 768 bytes: ")


class IgnoresDense(CudaGraphs):
    """As a graph does with what was a Python value at its capture."""

    def _dense(self, memory: Memory) -> Tensor:
        return super()._dense(memory) * 0 + 0.5


class CopiesHeaderOnly(CudaGraphs):
    def _copy_in(self, memory: Memory, size_bytes: int) -> None:
        super()._copy_in(memory, memory.arena.layout.dense_begin)


@pytest.mark.parametrize("ignores", [IgnoresDense, CopiesHeaderOnly])
def test_stale_graph_is_found(ignores: type[CudaGraphs]) -> None:
    found = found_in(ignores)
    assert {"parity", "eager", "stale"} <= found.keys()
    assert "another input keeps scores of the one before" in found["stale"]


def test_graph_that_copies_part_of_its_input_is_found_by_its_nodes_as_well() -> None:
    assert "the graph copies 16 and 8 bytes" in found_in(CopiesHeaderOnly)["nodes"]


class Accumulates(CudaGraphs):
    """A buffer that the graph reads before it writes."""

    def prepare(self, buckets: Sequence[Bucket]) -> None:
        self._sum = self._device.place(torch.zeros(1))
        super().prepare(buckets)

    def _copy_out(self, memory: Memory, scores: Tensor) -> None:
        self._sum.add_(2e-7)
        super()._copy_out(memory, scores + self._sum)


def test_replays_that_do_not_repeat_are_found() -> None:
    assert "3 launches of one input differ" in found_in(Accumulates)["repeat"]


class LeaksPadding(CudaGraphs):
    def _copy_out(self, memory: Memory, scores: Tensor) -> None:
        super()._copy_out(memory, scores + self._dense(memory).sum() * 0)


def test_padding_that_leaks_is_found() -> None:
    found = found_in(LeaksPadding)
    assert list(found) == ["padding"]
    assert "padding rows leak into real ones" in found["padding"]


class SharesOutput(CudaGraphs):
    """Every bucket's scores at the same address, as graphs that copy out to memory of the lane would have it."""

    _shared: Tensor | None = None

    def _allocate(self, bucket: Bucket) -> Memory:
        memory = super()._allocate(bucket)
        # Buckets come largest first.
        self._shared = memory.pinned_scores if self._shared is None else self._shared
        return Memory(memory.arena, memory.pinned, memory.resident, self._shared[: bucket.rows + 1])


def test_slots_that_share_memory_are_found() -> None:
    # By their scores, or by a sequence word that another slot wrote: whichever is read first.
    assert found_in(SharesOutput).keys() & {"interleave", "fault"}


class ReadsLast(CudaGraphs):
    """Scores are read from where the last launch puts them."""

    _last: Slot

    def launch(self, slot: Slot) -> None:
        self._last = slot
        super().launch(slot)

    def scores(self, slot: Slot) -> NDArray[np.float32]:
        return self._last.scores


def test_launches_that_disturb_each_other_are_found() -> None:
    assert list(found_in(ReadsLast)) == ["interleave"]


class EchoesNothing(CudaGraphs):
    def _copy_out(self, memory: Memory, scores: Tensor) -> None:
        memory.section(0, 1, torch.int32).zero_()
        super()._copy_out(memory, scores)


def test_wrong_sequence_word_ends_the_examination() -> None:
    model = tiny_model()
    engine = captured(model, EchoesNothing(model, TapeDevice(), GraphOptions()), rows=(1, 8))
    diagnosis = examined(model, engine)
    (problem,) = diagnosis.problems
    assert problem.startswith("bucket 1: device: bucket 1 came back with sequence word 0 for 1: ")
    assert problem.endswith("; nothing was examined after that")
    assert diagnosis.reports == ()


def test_device_that_fails_ends_the_examination() -> None:
    model, device = tiny_model(), TapeDevice()
    engine = captured(model, CudaGraphs(model, device, GraphOptions()), rows=(1, 8))
    device.fail_at = "run"
    (problem,) = examined(model, engine).problems
    assert problem.startswith("bucket 1: device: the tape device failed")

"""A captured graph is read by CUDA's own calls, and passes only when it is one whole forward."""

import enum
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from narsil_graph.engine import graph_nodes
from narsil_graph.engine.graph_nodes import (
    FBGEMM_LOOKUP_KERNEL,
    GraphNode,
    NodeKind,
    histogram,
    node_problem,
    read_nodes,
    write_dot,
)
from narsil_graph.engine.launcher import DeviceFault
from narsil_graph.errors import Failure

RUNTIME_CALLS = ("cudaGraphGetNodes", "cudaGraphMemcpyNodeGetParams", "cudaGraphDebugDotPrint")
DRIVER_CALLS = ("cuGraphNodeGetType", "cuGraphKernelNodeGetParams", "cuFuncGetName", "cuKernelGetName")
IN_BYTES, OUT_BYTES = 16_912, 516
LOOKUP = "_ZN4nbit62INT8_split_embedding_codegen_forward_unweighted_kernel_small_LIifLm2ELm4ELm2ELm4ELm16ELb1ELb0EEEv"
REMAP = "_ZN4nbit67int_nbit_split_embedding_codegen_forward_pruned_array_lookup_kernelIiiEEvN5torch"


def kernel(name: str) -> GraphNode:
    return GraphNode(NodeKind.KERNEL, name=name)


def copy(size_bytes: int) -> GraphNode:
    return GraphNode(NodeKind.MEMCPY, size_bytes=size_bytes)


HEALTHY = (
    copy(IN_BYTES),
    kernel("_ZN2at6native29vectorized_elementwise_kernelILi4EZZZNS0_17clamp_kernel_cudaERNS_18TensorIteratorBaseE"),
    kernel(
        "_ZN2at6native18elementwise_kernelILi128ELi4EZNS0_22gpu_kernel_impl_nocastIZZZNS0_23direct_copy_kernel_cuda"
    ),
    kernel(LOOKUP),
    kernel("sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize64x64x32_warpgroupsize1x1x1_execute_kernel"),
    GraphNode(NodeKind.MEMSET),
    kernel("_ZN7cutlass7Kernel2I66cutlass_80_tensorop_s1688gemm_64x64_16x6_tn_align4EEvNT_6ParamsE"),
    kernel("_ZN2at6native16indexSelectSmallIndexIfljLi2ELi2ELin2EEEvNS_4cuda6detail10TensorInfoIT_T1_EE"),
    GraphNode(NodeKind.EMPTY),
    kernel("_ZN2at6native29vectorized_elementwise_kernelILi4EZZZNS0_19sigmoid_kernel_cudaERNS_18TensorIteratorBaseE"),
    copy(OUT_BYTES),
)


def problem(nodes: Sequence[GraphNode]) -> str | None:
    return node_problem(
        nodes, lookup_name=FBGEMM_LOOKUP_KERNEL, lookups=1, copied_bytes=(IN_BYTES, OUT_BYTES), kernels_min=7
    )


def without(nodes: Sequence[GraphNode], gone: GraphNode) -> list[GraphNode]:
    return [node for node in nodes if node is not gone]


def test_whole_forward_has_no_problem() -> None:
    assert problem(HEALTHY) is None


def test_order_in_which_cuda_lists_nodes_does_not_matter() -> None:
    assert problem(HEALTHY[::-1]) is None


def test_remapping_kernel_of_fbgemm_is_not_a_lookup() -> None:
    assert problem([*HEALTHY, kernel(REMAP)]) is None


@pytest.mark.parametrize(
    ("nodes", "said", "fix"),
    [
        ([], "the graph is empty", "another stream"),
        ([*HEALTHY, GraphNode(NodeKind.HOST)], "holds 1 host call,", "out of the forward"),
        ([*HEALTHY, GraphNode(NodeKind.MEM_ALLOC)], "holds 1 memory allocation,", "native allocator"),
        ([*HEALTHY, *[GraphNode(NodeKind.MEM_FREE)] * 2], "holds 2 memory releases,", "native allocator"),
        ([*HEALTHY, GraphNode(NodeKind.CHILD_GRAPH)], "holds 1 child graph,", "capture its work directly"),
        ([*HEALTHY, GraphNode(NodeKind.CONDITIONAL)], "holds 1 conditional node,", "take the branch out"),
        (without(HEALTHY, HEALTHY[0]), "holds 1 copy where", "outside the capture"),
        ([*HEALTHY, copy(104)], f"holds 3 copies ({IN_BYTES}, {OUT_BYTES}, 104 bytes)", "constants on the device"),
        ([copy(8_720), *HEALTHY[1:]], f"copies 8720 and {OUT_BYTES} bytes where {IN_BYTES} in", "arena of another"),
        ([*HEALTHY[:-1], copy(512)], f"copies {IN_BYTES} and 512 bytes", "arena of another"),
        ([*without(HEALTHY, HEALTHY[3]), kernel("a")], "holds 0 kernels named", "room for one id"),
        ([*HEALTHY, kernel(LOOKUP)], "holds 2 kernels named", "capture one forward"),
        (without(HEALTHY, HEALTHY[4]), "holds 6 kernels where a forward takes at least 7", "on the CPU"),
    ],
)
def test_each_violation_alone_has_its_own_sentence_and_fix(nodes: list[GraphNode], said: str, fix: str) -> None:
    found = problem(nodes)
    assert found is not None
    assert said in found
    assert fix in found
    assert "\n" not in found


def test_model_of_two_row_formats_takes_two_lookups() -> None:
    nodes = [*HEALTHY, kernel(LOOKUP.replace("INT8", "FP16"))]
    assert (
        node_problem(
            nodes, lookup_name=FBGEMM_LOOKUP_KERNEL, lookups=2, copied_bytes=(IN_BYTES, OUT_BYTES), kernels_min=8
        )
        is None
    )


def test_histogram_counts_kernels_and_copies_always_and_others_where_there_are_any() -> None:
    assert histogram([]) == "0 kernels, 0 copies"
    assert histogram([kernel(LOOKUP), copy(4)]) == "1 kernel, 1 copy"
    assert histogram(HEALTHY) == "7 kernels, 2 copies, 1 memset, 1 empty node"


class Status(enum.IntEnum):
    SUCCESS = 0
    ILLEGAL_ADDRESS = 700


class FakeCuda:
    """``cuda.bindings`` in the shapes of release 13: each call returns its status first, handles are not numbers."""

    def __init__(self, types: Sequence[str], *, failing: str = "", by_kernel: bool = False) -> None:
        self.types = types
        self.failing = failing
        self.by_kernel = by_kernel
        self.printed: tuple[int, bytes, object] | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        runtime, driver = ModuleType("runtime"), ModuleType("driver")
        flags = SimpleNamespace(cudaGraphDebugDotFlagsVerbose="verbose")
        self.fill(runtime, cudaGraphNode_t=Handle, cudaGraphDebugDotFlags=flags)
        self.fill(driver, CUgraphNode=Handle)
        self.fill(runtime, **{name: self.breakable(name) for name in RUNTIME_CALLS})
        self.fill(driver, **{name: self.breakable(name) for name in DRIVER_CALLS})
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)

    @staticmethod
    def fill(module: ModuleType, **members: object) -> None:
        for name, member in members.items():
            setattr(module, name, member)

    def breakable(self, name: str) -> object:
        def called(*arguments: object) -> tuple[object, ...]:
            result: tuple[object, ...] = getattr(self, name)(*arguments)
            return (Status.ILLEGAL_ADDRESS, *[None] * (len(result) - 1)) if name == self.failing else result

        called.__name__ = name
        return called

    def cudaGraphGetNodes(self, graph: int, count: int) -> tuple[object, ...]:
        assert graph == 0xBEEF
        return Status.SUCCESS, [Handle(place) for place in range(count)], len(self.types)

    def cuGraphNodeGetType(self, node: "Handle") -> tuple[object, ...]:
        return Status.SUCCESS, SimpleNamespace(name=self.types[int(node)])

    def cudaGraphMemcpyNodeGetParams(self, node: "Handle") -> tuple[object, ...]:
        return Status.SUCCESS, SimpleNamespace(extent=SimpleNamespace(width=100 + int(node), height=2, depth=3))

    def cuGraphKernelNodeGetParams(self, node: "Handle") -> tuple[object, ...]:
        func, kern = (0, int(node) + 1) if self.by_kernel else (int(node) + 1, 0)
        return Status.SUCCESS, SimpleNamespace(func=Handle(func), kern=Handle(kern))

    def cuFuncGetName(self, func: "Handle") -> tuple[object, ...]:
        return Status.SUCCESS, b"func_%d" % int(func)

    def cuKernelGetName(self, kern: "Handle") -> tuple[object, ...]:
        return Status.SUCCESS, b"kern_%d" % int(kern)

    def cudaGraphDebugDotPrint(self, graph: int, path: bytes, flags: object) -> tuple[object, ...]:
        self.printed = graph, path, flags
        return (Status.SUCCESS,)


class Handle:
    """A typed address, as the bindings make them: never true or false by itself."""

    def __init__(self, init_value: int) -> None:
        self.address = init_value

    def __int__(self) -> int:
        return self.address


KERNEL, MEMCPY = "CU_GRAPH_NODE_TYPE_KERNEL", "CU_GRAPH_NODE_TYPE_MEMCPY"


def test_nodes_are_read_with_kernel_names_and_copied_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda([MEMCPY, KERNEL, "CU_GRAPH_NODE_TYPE_MEMSET", MEMCPY]).install(monkeypatch)
    assert read_nodes(0xBEEF) == (copy(600), kernel("func_2"), GraphNode(NodeKind.MEMSET), copy(618))


def test_kernel_without_function_is_named_by_its_kernel_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda([KERNEL], by_kernel=True).install(monkeypatch)
    assert read_nodes(0xBEEF) == (kernel("kern_1"),)


def test_every_type_has_its_kind_and_unknown_ones_are_other(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda([*graph_nodes.KIND_OF_TYPE, "CU_GRAPH_NODE_TYPE_BATCH_MEM_OP"]).install(monkeypatch)
    assert [node.kind for node in read_nodes(0xBEEF)] == [*graph_nodes.KIND_OF_TYPE.values(), NodeKind.OTHER]
    assert set(graph_nodes.KIND_OF_TYPE.values()) == set(NodeKind) - {NodeKind.OTHER}


def test_graph_of_nothing_is_read_as_no_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda([]).install(monkeypatch)
    assert read_nodes(0xBEEF) == ()


@pytest.mark.parametrize("call", [*RUNTIME_CALLS[:2], *DRIVER_CALLS[:3]])
def test_cuda_error_of_any_call_is_a_device_fault_that_names_it(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    FakeCuda([MEMCPY, KERNEL], failing=call).install(monkeypatch)
    with pytest.raises(DeviceFault, match=f"{call} says ILLEGAL_ADDRESS"):
        read_nodes(0xBEEF)


def test_missing_bindings_are_a_failure_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(Failure, match=r"pip install 'narsil-graph\[cuda\]'"):
        read_nodes(0xBEEF)


def test_dot_is_printed_verbosely_to_a_path_of_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cuda = FakeCuda([])
    cuda.install(monkeypatch)
    write_dot(0xBEEF, tmp_path / "graph.dot")
    assert cuda.printed == (0xBEEF, str(tmp_path / "graph.dot").encode(), "verbose")


def test_path_that_cannot_be_written_is_told_before_cuda_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda = FakeCuda([])
    cuda.install(monkeypatch)
    with pytest.raises(Failure, match="No such file or directory"):
        write_dot(0xBEEF, tmp_path / "absent" / "graph.dot")
    assert cuda.printed is None


def test_cuda_error_while_printing_is_a_device_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FakeCuda([], failing="cudaGraphDebugDotPrint").install(monkeypatch)
    with pytest.raises(DeviceFault, match="cudaGraphDebugDotPrint says ILLEGAL_ADDRESS"):
        write_dot(0xBEEF, tmp_path / "graph.dot")


def test_real_bindings_have_every_name_that_is_used() -> None:
    runtime: Any = pytest.importorskip("cuda.bindings.runtime")
    driver: Any = importlib.import_module("cuda.bindings.driver")
    for name in RUNTIME_CALLS:
        assert getattr(runtime, name).__name__ == name
    for name in DRIVER_CALLS:
        assert getattr(driver, name).__name__ == name
    assert set(graph_nodes.KIND_OF_TYPE) <= {member.name for member in driver.CUgraphNodeType}
    assert int(runtime.cudaGraphNode_t(5)) == int(driver.CUgraphNode(5)) == 5
    assert not runtime.cudaError_t.cudaSuccess
    assert not driver.CUresult.CUDA_SUCCESS
    extent, launch = runtime.cudaMemcpy3DParms().extent, driver.CUDA_KERNEL_NODE_PARAMS()
    assert (extent.width, extent.height, extent.depth, int(launch.func), int(launch.kern)) == (0, 0, 0, 0, 0)
    assert runtime.cudaGraphDebugDotFlags.cudaGraphDebugDotFlagsVerbose


def test_real_bindings_without_a_driver_are_a_device_fault(tmp_path: Path) -> None:
    runtime: Any = pytest.importorskip("cuda.bindings.runtime")
    if runtime.cudaDriverGetVersion()[1]:
        pytest.skip("there is a driver")
    with pytest.raises(DeviceFault, match="cudaGraphGetNodes says cudaErrorInsufficientDriver"):
        read_nodes(0xBEEF)
    with pytest.raises(DeviceFault, match="cudaGraphDebugDotPrint says cudaErrorInsufficientDriver"):
        write_dot(0xBEEF, tmp_path / "graph.dot")

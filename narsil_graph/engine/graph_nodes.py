"""What a captured graph is made of, and whether that is one whole forward and nothing else."""

import enum
import importlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from narsil_graph.engine.launcher import DeviceFault
from narsil_graph.errors import Failure

# FBGEMM 1.6 names its pooled kernels INT8_split_embedding_codegen_forward_unweighted_kernel_small_L<...>, and so on for
# each row format. Its remapping kernels, which share the first four words, are not lookups.
FBGEMM_LOOKUP_KERNEL = "_split_embedding_codegen_forward_unweighted_kernel"
FBGEMM_WEIGHTED_LOOKUP_KERNEL = "_split_embedding_codegen_forward_weighted_kernel"


class NodeKind(enum.Enum):
    """A kind of graph node, in the words of a histogram."""

    KERNEL = "kernel"
    MEMCPY = "copy"
    MEMSET = "memset"
    HOST = "host call"
    CHILD_GRAPH = "child graph"
    EMPTY = "empty node"
    EVENT = "event node"
    MEM_ALLOC = "memory allocation"
    MEM_FREE = "memory release"
    CONDITIONAL = "conditional node"
    OTHER = "other node"


@dataclass(frozen=True, slots=True)
class GraphNode:
    """One node: of a kernel its function's name, mangled where C++ compiled it; of a copy its bytes."""

    kind: NodeKind
    name: str = ""
    size_bytes: int = 0


# By name, as bindings of another release may lack a kind or have more; one that is not here is OTHER.
KIND_OF_TYPE = {
    "CU_GRAPH_NODE_TYPE_KERNEL": NodeKind.KERNEL,
    "CU_GRAPH_NODE_TYPE_MEMCPY": NodeKind.MEMCPY,
    "CU_GRAPH_NODE_TYPE_MEMSET": NodeKind.MEMSET,
    "CU_GRAPH_NODE_TYPE_HOST": NodeKind.HOST,
    "CU_GRAPH_NODE_TYPE_GRAPH": NodeKind.CHILD_GRAPH,
    "CU_GRAPH_NODE_TYPE_EMPTY": NodeKind.EMPTY,
    "CU_GRAPH_NODE_TYPE_WAIT_EVENT": NodeKind.EVENT,
    "CU_GRAPH_NODE_TYPE_EVENT_RECORD": NodeKind.EVENT,
    "CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL": NodeKind.EVENT,
    "CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT": NodeKind.EVENT,
    "CU_GRAPH_NODE_TYPE_MEM_ALLOC": NodeKind.MEM_ALLOC,
    "CU_GRAPH_NODE_TYPE_MEM_FREE": NodeKind.MEM_FREE,
    "CU_GRAPH_NODE_TYPE_CONDITIONAL": NodeKind.CONDITIONAL,
}
FORBIDDEN = {
    NodeKind.HOST: "a launch would wait for the CPU: move it out of the forward",
    NodeKind.MEM_ALLOC: "memory must come from the lane's pool: allocate by torch, with its native allocator",
    NodeKind.MEM_FREE: "memory must come from the lane's pool: allocate by torch, with its native allocator",
    NodeKind.CHILD_GRAPH: "what it does is out of the doctor's sight: capture its work directly",
    NodeKind.CONDITIONAL: "what runs must not depend on the data: take the branch out of the forward",
}


def read_nodes(raw_graph: int) -> tuple[GraphNode, ...]:
    """The nodes of the ``cudaGraph_t`` at this address, which must outlive the call. Raises DeviceFault."""
    runtime, driver = _bindings("runtime"), _bindings("driver")
    _, count = _called(runtime.cudaGraphGetNodes, raw_graph, 0)
    nodes, count = _called(runtime.cudaGraphGetNodes, raw_graph, count)
    return tuple(_read_node(runtime, driver, int(nodes[place])) for place in range(count))


def _read_node(runtime: ModuleType, driver: ModuleType, address: int) -> GraphNode:
    # The driver's call, because the runtime's enumeration lacks kinds that a graph can hold and raises for them.
    node = driver.CUgraphNode(address)
    (node_type,) = _called(driver.cuGraphNodeGetType, node)
    kind = KIND_OF_TYPE.get(node_type.name, NodeKind.OTHER)
    if kind is NodeKind.KERNEL:
        return GraphNode(kind, name=_kernel_name(driver, node))
    if kind is NodeKind.MEMCPY:
        (copy,) = _called(runtime.cudaGraphMemcpyNodeGetParams, runtime.cudaGraphNode_t(address))
        return GraphNode(kind, size_bytes=copy.extent.width * copy.extent.height * copy.extent.depth)
    return GraphNode(kind)


def _kernel_name(driver: ModuleType, node: object) -> str:
    # The driver's calls: the runtime's handles of functions belong to one copy of the runtime, and torch has its own.
    (launch,) = _called(driver.cuGraphKernelNodeGetParams, node)
    if int(launch.func):
        (name,) = _called(driver.cuFuncGetName, launch.func)
    else:
        (name,) = _called(driver.cuKernelGetName, launch.kern)
    return bytes(name).decode()


def write_dot(raw_graph: int, path: Path) -> None:
    """Write the ``cudaGraph_t`` at this address to ``path`` in the DOT language, with every parameter of every node.

    Raises Failure where ``path`` cannot be written, DeviceFault where CUDA fails.
    """
    runtime = _bindings("runtime")
    try:
        path.write_bytes(b"")
    except OSError as error:
        raise Failure(f"cannot write the graph to {path}: {error.strerror}") from None
    verbose = runtime.cudaGraphDebugDotFlags.cudaGraphDebugDotFlagsVerbose
    _called(runtime.cudaGraphDebugDotPrint, raw_graph, os.fsencode(path), verbose)


def _bindings(module: str) -> ModuleType:
    try:
        return importlib.import_module(f"cuda.bindings.{module}")
    except ImportError as error:
        raise Failure(f"a captured graph is read by cuda-python ({error}): pip install 'narsil-graph[cuda]'") from None


def _called(function: Callable[..., tuple[Any, ...]], *arguments: object) -> tuple[Any, ...]:
    status, *results = function(*arguments)
    if status:  # success is 0 in the runtime's enumeration and in the driver's
        raise DeviceFault(f"the captured graph cannot be read: {function.__name__} says {status.name}")
    return tuple(results)


def histogram(nodes: Sequence[GraphNode]) -> str:
    """How many of each kind: kernels and copies always, others where there are any."""
    counts = Counter(node.kind for node in nodes)
    always = (NodeKind.KERNEL, NodeKind.MEMCPY)
    return ", ".join(_counted(counts[kind], kind.value) for kind in NodeKind if kind in always or counts[kind])


def node_problem(
    nodes: Sequence[GraphNode], *, lookup_name: str, lookups: int, copied_bytes: tuple[int, int], kernels_min: int
) -> str | None:
    """One sentence saying why the graph is not one whole forward, or None.

    It must be two copies of ``copied_bytes`` (host to device, device to host) and at least ``kernels_min`` kernels, of
    which exactly ``lookups`` have ``lookup_name`` in their name; nothing in it may run on the host, own memory or
    branch.
    """
    if not nodes:
        return "the graph is empty: the forward ran on another stream than the lane's, or on the CPU"
    counts = Counter(node.kind for node in nodes)
    for kind, fix in FORBIDDEN.items():
        if counts[kind]:
            return f"the graph holds {_counted(counts[kind], kind.value)}, and {fix}"
    return _copy_problem(nodes, copied_bytes) or _kernel_problem(nodes, lookup_name, lookups, kernels_min)


def _copy_problem(nodes: Sequence[GraphNode], copied_bytes: tuple[int, int]) -> str | None:
    found = [node.size_bytes for node in nodes if node.kind is NodeKind.MEMCPY]
    into, back = copied_bytes
    if len(found) < 2:
        return (
            f"the graph holds {_counted(len(found), 'copy')} where one in and one out are wanted: "
            "a copy ran outside the capture, so replays would score old rows or return old scores"
        )
    if len(found) > 2:
        sizes = ", ".join(map(str, found))
        return (
            f"the graph holds {len(found)} copies ({sizes} bytes) where 2 are wanted: "
            "keep constants on the device, and tensors contiguous and of one dtype where they are copied"
        )
    # The order in which CUDA lists nodes is not documented, so the two sizes are compared as a set of two.
    if sorted(found) != sorted(copied_bytes):
        return (
            f"the graph copies {found[0]} and {found[1]} bytes where {into} in and {back} out are wanted: "
            "it was captured with the arena of another bucket, or with part of its own"
        )
    return None


def _kernel_problem(nodes: Sequence[GraphNode], lookup_name: str, lookups: int, kernels_min: int) -> str | None:
    names = [node.name for node in nodes if node.kind is NodeKind.KERNEL]
    found = sum(lookup_name in name for name in names)
    if found < lookups:
        return (
            f"the graph holds {_counted(found, 'kernel')} named {lookup_name!r} where {lookups} are wanted: "
            "look up on the lane's stream, and by room for one id at least, as no room launches no lookup"
        )
    if found > lookups:
        return (
            f"the graph holds {_counted(found, 'kernel')} named {lookup_name!r} where {lookups} are wanted: "
            "look each row format up once, and capture one forward"
        )
    if len(names) < kernels_min:
        return (
            f"the graph holds {_counted(len(names), 'kernel')} where a forward takes at least {kernels_min}: "
            "part of it ran on another stream than the lane's, or on the CPU"
        )
    return None


def _counted(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun.removesuffix('y')}ies" if noun.endswith("y") else f"{count} {noun}s"

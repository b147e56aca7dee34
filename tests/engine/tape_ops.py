"""What a CUDA stream would make of a program: its operators on a tape, and a refusal of what CUDA cannot do."""

import enum
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from narsil_graph.engine.graph_nodes import GraphNode, NodeKind
from narsil_graph.engine.launcher import DeviceFault

# Operators whose result, or its shape, the host has to wait for.
WAITS = {
    "_local_scalar_dense",
    "_unique",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
HOST_READS = {torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.__array__}
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
LOOKUP = "int_nbit_split_embedding_codegen_lookup_function"
# The lookup's own small constants are made beside its weights, not placed; on CUDA the operator itself refuses them
# when they lie elsewhere. In its signature they stand between the weights and the first number.
LOOKUP_CONSTANTS = slice(1, 6)
LOOKUP_FORMATS = ("INT2", "INT4", "INT8", "FP16", "FP32")
LOOKUP_DIMS = slice(7, 12)
LOOKUP_WEIGHTS = 15


class Place(enum.Enum):
    """Where a tensor's memory would lie."""

    PINNED = "pinned memory"
    DEVICE = "device memory"


class Memory:
    """Which addresses are pinned and which the device's. Everything in it lives on, so no address changes sides."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._known: dict[int, tuple[int, Place, Tensor]] = {}

    def add(self, tensor: Tensor, place: Place) -> None:
        begin, end = span(tensor)
        insort(self._begins, begin)
        self._known[begin] = end, place, tensor

    def place_of(self, tensor: Tensor) -> Place | None:
        """None for memory that is neither, which a real device calls pageable."""
        address = tensor.data_ptr()
        before = bisect_right(self._begins, address)
        if not before:
            return None
        end, place, _ = self._known[self._begins[before - 1]]
        return place if address < end else None


def span(tensor: Tensor) -> tuple[int, int]:
    """The first address of a tensor's storage and the one behind it."""
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


@dataclass(frozen=True, slots=True)
class Step:
    """One operator with the very tensors and numbers it was called with.

    ``made`` holds its results that are new memory, each with its place among the results.
    """

    op: OpOverload[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    made: tuple[tuple[int, Tensor], ...]

    @property
    def name(self) -> str:
        """Without namespace and overload."""
        return str(self.op).split(".")[1]

    def again(self) -> None:
        """Compute into the same memory from what lies in the arguments' memory now."""
        found = list(tensors_in([self.op(*self.args, **self.kwargs)]))
        for place, tensor in self.made:
            tensor.copy_(found[place])

    def nodes(self) -> list[GraphNode]:
        """What a device would launch for it."""
        if self.name == "copy_" and memcpy(self.args[0], self.args[1]):
            return [GraphNode(NodeKind.MEMCPY, size_bytes=self.args[0].nbytes)]
        if self.name == "clone" and memcpy(self.made[0][1], self.args[0]):
            return [GraphNode(NodeKind.MEMCPY, size_bytes=self.args[0].nbytes)]
        if self.name == LOOKUP:
            weighted = "unweighted" if self.args[LOOKUP_WEIGHTS] is None else "weighted"
            return [
                GraphNode(NodeKind.KERNEL, f"{row_format}_split_embedding_codegen_forward_{weighted}_kernel_small_L")
                for row_format, dim in zip(LOOKUP_FORMATS, self.args[LOOKUP_DIMS], strict=True)
                if dim
            ]
        return [GraphNode(NodeKind.KERNEL, str(self.op))]


def memcpy(to: Tensor, source: Tensor) -> bool:
    """Whether a copy needs no kernel."""
    same = to.dtype is source.dtype and to.shape == source.shape
    return same and to.is_contiguous() and source.is_contiguous()


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs a program's operators, notes them, and raises DeviceFault at one that waits for the device or leaves it."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.made: list[Tensor] = []
        self._memory = memory
        self._overwritten: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self, func: OpOverload[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:
            composite = func.decompose(*args, **kwargs)
        if composite is not NotImplemented:
            return composite
        written = tuple(written_by(func, args, kwargs))
        self._refuse_waits(Step(func, args, kwargs, ()))
        self._overwritten += [(tensor, tensor.clone()) for tensor in written]
        found = func(*args, **kwargs)
        inputs = {span(tensor) for tensor in tensors_in((args, *kwargs.values()))}
        results = enumerate(tensors_in([found]))
        made = tuple((place, tensor) for place, tensor in results if tensor.numel() and span(tensor) not in inputs)
        for _, tensor in made:
            self._memory.add(tensor, Place.DEVICE)
            self.made.append(tensor)
        step = Step(func, args, kwargs, made)
        if written or (made and step.name not in ALLOCATIONS):
            self._refuse_host_memory(step)
            self.steps.append(step)
        return found

    def undo(self) -> None:
        """Leave all memory as a capture does: what was there before is as it was, what is new is garbage."""
        with torch.inference_mode():
            for tensor, before in reversed(self._overwritten):
                tensor.copy_(before)
        poison(self.made)

    def _refuse_waits(self, step: Step) -> None:
        masks = step.name in ("index", "index_put_", "_unsafe_index", "_index_put_impl_") and any(
            index.dtype in (torch.bool, torch.uint8) for index in tensors_in([step.args[1]])
        )
        lengths = step.op is torch.ops.aten.repeat_interleave.Tensor and step.kwargs.get("output_size") is None
        if step.name in WAITS or masks or lengths:
            raise DeviceFault(f"{step.op} waits for the device")

    def _refuse_host_memory(self, step: Step) -> None:
        args = list(step.args)
        if step.name == LOOKUP:
            del args[LOOKUP_CONSTANTS]
        # A number from Python arrives as a tensor without dimensions, and a kernel takes it by value.
        tensors = [tensor for tensor in tensors_in((args, *step.kwargs.values())) if tensor.numel()]
        places = [self._memory.place_of(tensor) for tensor in tensors]
        if any(place is None and tensor.dim() for place, tensor in zip(places, tensors, strict=True)):
            raise DeviceFault(f"{step.op} works on memory that is neither pinned nor on the device")
        if Place.PINNED not in places:
            return
        if step.name != "copy_":
            raise DeviceFault(f"{step.op} works on pinned memory, which the device can only copy")
        if Place.DEVICE not in places:
            raise DeviceFault(f"{step.op} copies within pinned memory, which happens once, on the host")
        if not memcpy(step.args[0], step.args[1]):
            raise DeviceFault(f"{step.op} between pinned and device memory changes dtype or layout on the host")
        if not (step.args[2:] or [step.kwargs.get("non_blocking", False)])[0]:
            raise DeviceFault(f"{step.op} waits for the device: it is not non_blocking")


class HostReads(TorchFunctionMode):
    """Refuses what reads a device's tensor from Python beneath torch's dispatcher, which the tape does not see."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self._memory = memory

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in HOST_READS and self._memory.place_of(args[0]) is Place.DEVICE:
            raise DeviceFault(f"Tensor.{func.__name__} waits for the device")
        return func(*args, **(kwargs or {}))


def written_by(op: OpOverload[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The arguments that ``op`` changes. detach_ changes what torch knows of a tensor, not its elements."""
    if op is torch.ops.aten.detach_.default:
        return
    for number, argument in enumerate(op._schema.arguments):  # pyright: ignore[reportPrivateUsage]
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors_in([args[number] if number < len(args) else kwargs.get(argument.name)])


def poison(tensors: Iterable[Tensor]) -> None:
    """Garbage that no score survives and no index reaches."""
    with torch.inference_mode():
        for tensor in tensors:
            if tensor.dtype.is_floating_point:
                tensor.fill_(torch.nan)
            else:
                tensor.fill_(True if tensor.dtype is torch.bool else torch.iinfo(tensor.dtype).max)

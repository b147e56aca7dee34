"""The pickle of a TorchScript archive, read as a list of operations.

No ``pickle`` machinery is involved: ``pickletools`` splits the bytes into operations, and the few that TorchScript
writes build the values below. There is nothing here that could import a module or call a function by name.
"""

import pickletools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from narsil_graph.errors import Failure

# TorchScript has written protocol 2 since its zip format exists.
PICKLE_PROTOCOL = 2
STORAGE_DTYPES: Mapping[str, np.dtype[np.generic]] = {
    "torch.BoolStorage": np.dtype("?"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
}
# Wrappers around one value: the type tag of a container, and typed lists.
WRAPPERS = frozenset(
    f"torch.jit._pickle.{name}"
    for name in ("restore_type_tag", "build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
)
REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
ORDERED_DICT = "collections.OrderedDict"
DEVICE = "torch.device"
# Classes whose code travels in the archive: modules, enums, named tuples. They become Records or plain values.
SCRIPTED = "__torch__."
CONSTANTS = frozenset({"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"})
LITERALS: Mapping[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class ImportRefused(Failure):
    """Why an archive is not imported; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Storage:
    """``count`` values of ``dtype`` in the archive member ``data/key``."""

    key: str
    dtype: np.dtype[np.generic]
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage, in values; the bytes are not read yet."""

    storage: Storage
    begin: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Record:
    """An object of a scripted class; ``state`` maps attribute names to values for a module."""

    type_name: str
    state: object = None


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


class _Mark:
    pass


def read_pickle(data: bytes) -> object:
    """The value that ``data`` describes. Raises ImportRefused for damage and for what TorchScript never writes."""
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            # Python only warns of an escape that it does not know, in strings of a kind that TorchScript never writes.
            warnings.simplefilter("error", DeprecationWarning)
            for operation, argument, _ in pickletools.genops(data):
                if operation.name == "STOP":
                    return machine.pop()
                machine.step(operation.name, argument)
    except (ValueError, TypeError, LookupError, DeprecationWarning) as error:
        raise ImportRefused(f"its data.pkl is damaged ({error})") from None
    raise ImportRefused("its data.pkl is damaged (it does not end)")


class _Machine:
    """The stack machine of the pickle format, for the operations TorchScript writes."""

    def __init__(self) -> None:
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def pop(self) -> object:
        return self._stack.pop()

    def step(self, operation: str, argument: object) -> None:
        if operation in CONSTANTS:
            self._stack.append(argument)
        elif operation in LITERALS:
            self._stack.append(LITERALS[operation])
        elif operation == "GLOBAL":
            self._stack.append(_known_global(_text(argument)))
        elif operation in ("BINPUT", "LONG_BINPUT"):
            self._memo[_integer(argument)] = self._stack[-1]
        elif operation in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[_integer(argument)])
        elif operation == "PROTO":
            if argument != PICKLE_PROTOCOL:
                raise ImportRefused(f"its data.pkl is of pickle protocol {argument}, TorchScript writes protocol 2")
        else:
            self._build(operation)

    def _build(self, operation: str) -> None:
        match operation:
            case "MARK":
                self._stack.append(_Mark())
            case "TUPLE":
                self._stack.append(tuple(self._pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(operation[-1])
                self._stack[-count:] = [tuple(self._stack[-count:])]
            case "EMPTY_LIST":
                self._stack.append([])
            case "EMPTY_DICT":
                self._stack.append({})
            case "APPENDS" | "APPEND":
                items = self._pop_to_mark() if operation == "APPENDS" else [self.pop()]
                _list(self._stack[-1]).extend(items)
            case "SETITEMS" | "SETITEM":
                items = self._pop_to_mark() if operation == "SETITEMS" else [self.pop(), self.pop()][::-1]
                _dict(self._stack[-1]).update(zip(items[::2], items[1::2], strict=True))
            case "NEWOBJ" | "BUILD" | "REDUCE":
                argument = self.pop()
                self._stack.append(_OBJECTS[operation](self.pop(), argument))
            case "BINPERSID":
                self._stack.append(_storage(self.pop()))
            case _:
                raise ImportRefused(f"its data.pkl holds the operation {operation}, which TorchScript does not write")

    def _pop_to_mark(self) -> list[object]:
        items: list[object] = []
        while not isinstance(item := self.pop(), _Mark):
            items.append(item)
        return items[::-1]


def _known_global(argument: str) -> _Global:
    name = argument.replace(" ", ".", 1)
    known = {REBUILD_TENSOR, ORDERED_DICT, DEVICE} | WRAPPERS | STORAGE_DTYPES.keys()
    if name not in known and not name.startswith(SCRIPTED):
        raise ImportRefused(f"its data.pkl names the global {name}, which a TorchRec model does not need")
    return _Global(name)


def _new_object(cls: object, arguments: object) -> Record:
    name = _global_name(cls)
    if not name.startswith(SCRIPTED) or arguments != ():
        raise TypeError(f"{name} is not a scripted class")
    return Record(name)


def _set_state(record: object, state: object) -> Record:
    if not isinstance(record, Record):
        raise TypeError("only an object of a scripted class has a state")
    record.state = state
    return record


def _reduce(function: object, arguments: object) -> object:
    name = _global_name(function)
    # Enums are written with their bare value where the format asks for a tuple of arguments.
    items = arguments if isinstance(arguments, tuple) else (arguments,)
    if name == REBUILD_TENSOR:
        return _tensor(items)
    if name == ORDERED_DICT:
        return {}
    if name in STORAGE_DTYPES:
        raise TypeError(f"{name} is not a function")
    return items[0]


_OBJECTS = {"NEWOBJ": _new_object, "BUILD": _set_state, "REDUCE": _reduce}


def _storage(reference: object) -> Storage:
    items = _tuple(reference)
    if len(items) != 5 or items[0] != "storage":
        raise TypeError("a persistent id is not that of a storage")
    return Storage(key=_text(items[2]), dtype=STORAGE_DTYPES[_global_name(items[1])], count=_integer(items[4]))


def _tensor(items: tuple[object, ...]) -> Tensor:
    storage = items[0]
    if not isinstance(storage, Storage):
        raise TypeError("a tensor has no storage")
    shape, strides = (tuple(_integer(value) for value in _tuple(item)) for item in items[2:4])
    if len(shape) != len(strides):
        raise TypeError("a tensor has not one stride per dimension")
    return Tensor(storage=storage, begin=_integer(items[1]), shape=shape, strides=strides)


def _global_name(value: object) -> str:
    if not isinstance(value, _Global):
        raise TypeError("a value stands where a class or function is due")
    return value.name


def _integer(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError(f"want a number from 0, got a {type(value).__name__}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"want a string, got a {type(value).__name__}")
    return value


def _tuple(value: object) -> tuple[object, ...]:
    if not isinstance(value, tuple):
        raise TypeError(f"want a tuple, got a {type(value).__name__}")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"want a list, got a {type(value).__name__}")
    return value


def _dict(value: object) -> dict[object, object]:
    if not isinstance(value, dict):
        raise TypeError(f"want a dict, got a {type(value).__name__}")
    return value

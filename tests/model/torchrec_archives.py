"""Archives like those that TorchRec 1.8 scripts, written from scratch: the same members, module tree, pickle
operations and forward, in both of its flavours. A Draft can be spoilt in any place before it is written."""

import itertools
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narsil_graph.model.rows import dequantise, quantise
from narsil_graph.model.spec import Pooling, RowFormat
from tests.model.torchrec_forwards import forward_text

Values = NDArray[np.float32]
GRAPH_TYPE = "__torch__.torch.fx.graph_module.___torch_mangle_3.GraphModule"
FBGEMM = "__torch__.fbgemm_gpu"
EMBEDDING_TYPE = f"{FBGEMM}.split_table_batched_embeddings_ops_inference.IntNBitTableBatchedEmbeddingBagsCodegen"
FORMAT_NUMBERS = {RowFormat.FP32: 0, RowFormat.FP16: 1, RowFormat.INT8: 2, RowFormat.INT4: 3}
STORAGES = {"f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "u1": "Byte"}


@dataclass
class Module:
    """A scripted object; ``state`` is its attributes."""

    type_name: str
    state: Any


@dataclass
class Enum:
    type_name: str
    value: str | int


@dataclass
class Call:
    """A wrapper around a value, as ``torch.jit._pickle.build_intlist`` is."""

    name: str
    arguments: tuple[Any, ...]


@dataclass
class View:
    """A tensor over part of ``base``, stated as it says, truthful or not."""

    base: NDArray[Any]
    begin: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class PickleWriter:
    """Pickle protocol 2 as TorchScript writes it."""

    def __init__(self) -> None:
        self.storages: dict[str, NDArray[Any]] = {}
        self._memo: dict[str, int] = {}
        self._out = bytearray(b"\x80\x02")

    def finish(self, value: object) -> bytes:
        self._put(value)
        return bytes(self._out + b".")

    def _put(self, value: object) -> None:
        match value:
            case None:
                self._out += b"N"
            case bool():
                self._out += b"\x88" if value else b"\x89"
            case int():
                self._out += b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)
            case float():
                self._out += b"G" + struct.pack(">d", value)
            case str():
                text = value.encode()
                self._remember("string " + value, b"X" + struct.pack("<I", len(text)) + text)
            case tuple():
                self._bracket(b"(", value, b"t")
            case list():
                self._bracket(b"](", value, b"e")
            case dict():
                self._bracket(b"}(", [part for item in value.items() for part in item], b"u")
            case Module():
                self._global(value.type_name)
                self._out += b")\x81"
                self._put(value.state)
                self._out += b"b"
            case Enum() | Call():
                self._global(value.type_name if isinstance(value, Enum) else value.name)
                self._put(value.value if isinstance(value, Enum) else value.arguments)
                self._out += b"R"
            case View():
                self._tensor(value)
            case np.ndarray():
                steps = tuple(stride // value.itemsize for stride in value.strides)
                self._tensor(View(value, 0, value.shape, steps))
            case _:
                raise TypeError(type(value))

    def _bracket(self, begin: bytes, items: Any, end: bytes) -> None:
        self._out += begin
        for item in items:
            self._put(item)
        self._out += end

    def _global(self, name: str) -> None:
        owner, _, attribute = name.rpartition(".")
        self._remember("global " + name, f"c{owner}\n{attribute}\n".encode())

    def _remember(self, key: str, written: bytes) -> None:
        known = key in self._memo
        number = self._memo.setdefault(key, len(self._memo))
        get, put = (b"h", b"q") if number < 256 else (b"j", b"r")
        index = bytes([number]) if number < 256 else struct.pack("<I", number)
        self._out += get + index if known else written + put + index

    def _tensor(self, view: View) -> None:
        key = next((key for key, known in self.storages.items() if known is view.base), str(len(self.storages)))
        self.storages[key] = view.base
        self._global("torch._utils._rebuild_tensor_v2")
        self._out += b"(("
        self._put("storage")
        self._global(f"torch.{STORAGES[view.base.dtype.str[1:]]}Storage")
        for fact in (key, "cpu", view.base.size):
            self._put(fact)
        self._out += b"tQ"
        for part in (view.begin, view.shape, view.strides, False, Call("collections.OrderedDict", ())):
            self._put(part)
        self._out += b"tR"


@dataclass
class Draft:
    """An archive before it is written. ``embedding`` is the state of its table-batched embedding."""

    root: Module
    embedding: dict[str, Any]
    forward: str
    byte_order: bytes = b"little"
    tables: dict[str, Values] = field(default_factory=dict[str, Values])

    def members(self) -> dict[str, bytes]:
        writer = PickleWriter()
        pickled = writer.finish(self.root)
        return {
            **{f"data/{key}": base.tobytes() for key, base in writer.storages.items()},
            "data.pkl": pickled,
            "code/__torch__/torch/fx/graph_module/___torch_mangle_3.py": self.forward.encode(),
            "constants.pkl": b"\x80\x02).",
            "version": b"3\n",
            "byteorder": self.byte_order,
        }

    def write(self, path: Path, **replaced: bytes | None) -> Path:
        """``replaced`` maps a member, with ``_`` for ``.``, to other bytes; None leaves it out."""
        members = {**self.members(), **{name.replace("_", "."): data for name, data in replaced.items()}}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                if data is not None:
                    compress = zipfile.ZIP_DEFLATED if name.startswith("code/") else zipfile.ZIP_STORED
                    archive.writestr(f"{path.stem}/{name}", data, compress)
        return path


@dataclass(frozen=True)
class Shape:
    """What a draft is of. ``features`` lists the features of each table; ``keys`` is the order of the request;
    ``dots`` the order of the interaction."""

    sharded: bool = True
    table_rows: tuple[int, ...] = (50, 7, 33)
    features: tuple[tuple[str, ...], ...] = (("f0",), ("f1",), ("f2",))
    keys: tuple[str, ...] = ("f0", "f1", "f2")
    dots: tuple[str, ...] = ("f0", "f1", "f2")
    formats: tuple[RowFormat, ...] = (RowFormat.INT8, RowFormat.INT8, RowFormat.INT8)
    pooling: Pooling = Pooling.SUM
    dim: int = 8
    dense_in: int = 5
    dense_hidden: tuple[int, ...] = (12,)
    over_hidden: tuple[int, ...] = (10, 6)

    @property
    def lookup(self) -> tuple[str, ...]:
        """The features in the order of the embedding."""
        return tuple(name for names in self.features for name in names)


def draft(shape: Shape) -> Draft:
    """An archive of ``shape`` with random weights, the same ones every time."""
    rng = np.random.default_rng(7)
    tables = {}
    stored = []
    for index, (rows, row_format) in enumerate(zip(shape.table_rows, shape.formats, strict=True)):
        encoded = quantise(rng.standard_normal((rows, shape.dim), np.float32), row_format)
        tables[f"t_{index}"] = dequantise(encoded, row_format)
        stored.append(encoded)
    embedding = embedding_state(shape, stored)
    vectors = 1 + len(shape.lookup)
    dense_widths = (shape.dense_in, *shape.dense_hidden, shape.dim)
    over_widths = (shape.dim + vectors * (vectors - 1) // 2, *shape.over_hidden)
    pairs = np.stack(np.triu_indices(vectors, 1)).astype("<i8")
    final = linear(rng, over_widths[-1], 1)
    tbes = module({"0": Module(EMBEDDING_TYPE, embedding)})
    tree = {
        "dense_arch": module({"model": module({"_mlp": mlp(rng, dense_widths)})}),
        "sparse_arch": module({"embedding_bag_collection": module({"tbes": tbes})}),
        "over_arch": module({"model": module({"0": module({"_mlp": mlp(rng, over_widths)}), "1": final})}),
    }
    state = {
        "_tensor_constant0": View(pairs, 0, pairs.shape[1:], (1,)),
        "_tensor_constant1": View(pairs, pairs.shape[1], pairs.shape[1:], (1,)),
        "training": False,
        "_lineno_map": Call("torch.jit._pickle.restore_type_tag", ({1: 1}, "Dict[int, int]")),
        "shape_env": None,
        "_module": module(tree),
    }
    text = forward_text(
        sharded=shape.sharded,
        keys=shape.keys,
        lookup=shape.lookup,
        dots=shape.dots,
        dim=shape.dim,
        dense_layers=len(shape.dense_hidden) + 1,
        over_hidden_layers=len(shape.over_hidden),
    )
    return Draft(Module(GRAPH_TYPE, state), embedding, text, tables=tables)


def module(children: dict[str, Any]) -> Module:
    state = {"training": True, "_is_full_backward_hook": None, **children}
    return Module("__torch__.torch.nn.modules.module.___torch_mangle_1.Module", state)


def mlp(rng: np.random.Generator, widths: tuple[int, ...]) -> Module:
    layers = itertools.pairwise(widths)
    return module({str(n): module({"_linear": linear(rng, *pair)}) for n, pair in enumerate(layers)})


def linear(rng: np.random.Generator, inputs: int, outputs: int) -> Module:
    weight = rng.standard_normal((outputs, inputs), np.float32) * np.float32(1.5 / inputs**0.5)
    bias = rng.standard_normal(outputs, np.float32)
    return Module("__torch__.torch.nn.modules.linear.Linear", {"weight": weight, "bias": bias, "training": False})


def embedding_state(shape: Shape, stored: list[NDArray[np.uint8]]) -> dict[str, Any]:
    """The attributes of FBGEMM's module. Row padding and the gaps between tables hold 0xEE."""
    alignment = 1 if shape.sharded else 16
    offsets: list[int] = []
    blocks: list[bytes] = []
    for rows in stored:
        padding = np.full((len(rows), -rows.shape[1] % alignment), 0xEE, np.uint8)
        block = np.concatenate([rows, padding], axis=1).tobytes()
        offsets.append(sum(map(len, blocks)))
        blocks.append(block + b"\xee" * (-len(block) % 128))
    weights = np.frombuffer(b"".join(blocks), np.uint8)
    feature_tables = [table for table, names in enumerate(shape.features) for _ in names]
    numbers = [FORMAT_NUMBERS[shape.formats[table]] for table in feature_tables]
    host = Enum(f"{FBGEMM}.tbe.config.embedding_config.EmbeddingLocation", 3)
    kinds = [Enum(f"{FBGEMM}.split_embedding_configs.SparseType", row_format.value) for row_format in shape.formats]
    nothing = np.zeros(0, np.uint8)
    return {
        "weights_tys": np.array(numbers, np.uint8),
        "index_remappings_array": np.zeros(0, "<i4"),
        "index_remapping_hash_table": np.zeros(0, "<i4"),
        "lxu_cache_weights": np.zeros((0, 0), np.uint8),
        "current_device": Call("torch.device", ("cpu",)),
        "scale_bias_size_in_bytes": 4,
        "pooling_mode": 0 if shape.pooling is Pooling.SUM else 1,
        "embedding_specs": [
            (f"t_{n}", rows, shape.dim, kind, host)
            for n, (rows, kind) in enumerate(zip(shape.table_rows, kinds, strict=True))
        ],
        "output_dtype": 0,
        "feature_names_per_table": [list(names) for names in shape.features] if shape.sharded else None,
        "cache_load_factor": 0.2,
        "row_alignment": alignment,
        "feature_table_map": Call("torch.jit._pickle.build_intlist", (feature_tables,)),
        "weight_initialized": True,
        "weights_dev": nothing,
        "weights_host": weights,
        "weights_uvm": nothing.copy(),
        "weights_physical_placements": Call("torch.jit._pickle.build_intlist", ([3] * len(stored),)),
        "weights_physical_offsets": Call("torch.jit._pickle.build_intlist", (offsets,)),
        "host_size": weights.size,
        "reverse_qparam": False,
        "index_remapping_hash_table_cpu": None,
        "timestep_counter": Module("__torch__.torch.classes.fbgemm.AtomicCounter", "0"),
        "weights_offsets": np.array([offsets[table] for table in feature_tables], "<i8"),
    }

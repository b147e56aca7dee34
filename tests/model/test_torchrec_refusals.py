"""What an archive is refused for, in words."""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from narsil_graph.model.spec import RowFormat
from narsil_graph.model.torchrec import ImportRefused, import_archive
from tests.model.torchrec_archives import Draft, Enum, Module, Shape, View, draft

Spoil = Callable[[Draft], object]


def refusal(path: Path) -> str:
    with pytest.raises(ImportRefused) as caught:
        import_archive(path)
    message = str(caught.value)
    assert message.startswith(f"cannot import {path}: ")
    assert "\n" not in message
    return message.removeprefix(f"cannot import {path}: ")


def setting(**attributes: Any) -> Spoil:
    return lambda made: made.embedding.update(attributes)


def without(attribute: str) -> Spoil:
    return lambda made: made.embedding.pop(attribute)


def text(old: str, new: str) -> Spoil:
    def spoil(made: Draft) -> None:
        assert old in made.forward
        made.forward = made.forward.replace(old, new)

    return spoil


def part(made: Draft, *path: str) -> dict[str, Any]:
    state: dict[str, Any] = made.root.state
    for name in path:
        state = state[name].state
    return state


def first_layer(made: Draft, arch: str) -> dict[str, Any]:
    path = ("model", "0", "_mlp") if arch == "over_arch" else ("model", "_mlp")
    return part(made, "_module", arch, *path, "0", "_linear")


def widen(arch: str) -> Spoil:
    def spoil(made: Draft) -> None:
        layer = first_layer(made, arch)
        outputs, inputs = layer["weight"].shape
        layer.update(weight=np.ones((outputs + 1, inputs), np.float32), bias=np.ones(outputs + 1, np.float32))

    return spoil


def half_precision(made: Draft) -> None:
    layer = first_layer(made, "dense_arch")
    layer["weight"] = layer["weight"].astype(np.float16)


def zero_table(made: Draft) -> None:
    weights = made.embedding["weights_host"].copy()
    weights[made.embedding["weights_offsets"][1] :] = 0
    made.embedding["weights_host"] = weights


def zero_scales(made: Draft) -> None:
    weights = made.embedding["weights_host"].copy()
    weights[: 50 * 12].reshape(50, 12)[:, :4] = 0
    made.embedding["weights_host"] = weights


def first_spec(made: Draft, **changed: object) -> None:
    name, rows, dim, kind, place = made.embedding["embedding_specs"][0]
    entry = {"name": name, "rows": rows, "dim": dim, "kind": kind, "place": place} | changed
    made.embedding["embedding_specs"][0] = tuple(entry.values())


def second_embedding(made: Draft) -> None:
    tbes = part(made, "_module", "sparse_arch", "embedding_bag_collection", "tbes")
    tbes["1"] = tbes["0"]


def other_dots(made: Draft) -> None:
    pairs = made.root.state["_tensor_constant0"].base
    made.root.state["_tensor_constant0"] = View(pairs[::-1].copy(), 0, (6,), (1,))


REFUSALS: dict[str, tuple[Spoil, str]] = {
    "zero table": (zero_table, "table 't_1' holds only zeros: shard_quant_model makes empty tables"),
    "zero scales": (zero_scales, "table 't_0' holds only zeros"),
    "pruned by array": (setting(index_remappings_array=np.ones(3, "<i4")), "pruned (index_remappings_array"),
    "pruned by hash": (setting(index_remapping_hash_table=np.ones((3, 2), "<i4")), "pruned (index_remapping_hash"),
    "pruned by CPU hash": (setting(index_remapping_hash_table_cpu=Module("__torch__.A", "0")), "pruned (a CPU hash"),
    "reversed qparams": (setting(reverse_qparam=True), "scale and bias behind each row (reverse_qparam)"),
    "wide qparams": (setting(scale_bias_size_in_bytes=8), "scale_bias_size_in_bytes is 8, want 4"),
    "fp16 pooling": (setting(output_dtype=1), "pools to FBGEMM's type 1 (output_dtype), want float32"),
    "no pooling": (setting(pooling_mode=2), "pooling_mode is 2, want 0 (sum) or 1 (mean)"),
    "uninitialised": (setting(weight_initialized=False), "never initialised"),
    "unified memory": (setting(weights_uvm=np.ones(3, np.uint8)), "placed in unified memory (weights_uvm)"),
    "cache": (setting(lxu_cache_weights=np.ones((3, 3), np.uint8)), "cached on the device (lxu_cache_weights)"),
    "cached placement": (setting(weights_physical_placements=[2, 2, 2]), "the placement 2 (unified memory or a cache)"),
    "two placements": (setting(weights_physical_placements=[0, 3, 3]), "partly on the host and partly on the device"),
    "no alignment": (setting(row_alignment=0), "row_alignment is 0"),
    "offsets disagree": (setting(weights_offsets=np.zeros(3, "<i8")), "weights_offsets contradict its embedding_specs"),
    "types disagree": (setting(weights_tys=np.zeros(3, np.uint8)), "weights_tys contradict its embedding_specs"),
    "lost offset": (setting(weights_physical_offsets=[0]), "3 tables but 1 weights_physical_offsets"),
    "unknown table": (setting(feature_table_map=[0, 1, 3]), "feature_table_map names a table that does not exist"),
    "lost feature": (setting(feature_table_map=[0], weights_offsets=np.zeros(1, "i8"), weights_tys=np.array([2], "u1")),
                     "looks up 3 features but maps 1 to tables"),
    "other FBGEMM": (without("reverse_qparam"), "no reverse_qparam: it was made by an unknown version of FBGEMM"),
    "table out of bounds": (lambda made: first_spec(made, rows=5000), "reaches to byte 60000 of 1280 bytes of weights"),
    "mixed dims": (lambda made: first_spec(made, dim=16), "tables have the dims [8, 16], and pairwise dots need one"),
    "fp8": (lambda made: first_spec(made, kind=Enum("__torch__.fbgemm_gpu.split_embedding_configs.SparseType", "fp8")),
            "table 't_0' is stored as fp8, want one of fp32, fp16, int8, int4"),
    "two embeddings": (second_embedding, "more than one table-batched embedding"),
    "dense chain": (widen("dense_arch"), "_mlp.1._linear takes 12 values but is given 13"),
    "over chain": (widen("over_arch"), "_mlp.1._linear takes 10 values but is given 11"),
    "half weights": (half_precision, "_mlp.0._linear is float16, want float32"),
    "other dots": (other_dots, "its self._tensor_constant0 is not a row of triu_indices(4, 4, 1)"),
    "tanh": (text("torch.relu", "torch.tanh"), "a step between its layers is torch.tanh, want torch.relu"),
    "no sigmoid": (text("torch.sigmoid", "torch.exp"), "its score is torch.exp, want torch.sigmoid"),
    "no final layer": (text("(final).forward(hidden, )", "hidden"), "does not end in a linear layer but in torch.relu"),
    "casts to nothing": (text("torch.to(to, 6)", "torch.to(to)"), "its score is torch.to, want torch.sigmoid"),
    "casts": (text("torch.to(to, 6)", "torch.to(to, 5)"), "casts values to the type 5, want float32"),
    "transformed input": (text('= batch["float_features"]', '= torch.cat([batch["float_features"]], 1)'),
                          "the input of its dense arch is torch.cat"),
    "weighted": (text("type_1, None", "type_1, values"), "features are weighted"),
    "shifted offsets": (text("(moved).offsets()", "(kjt).offsets()"), "come from two places"),
    "two lookups": (text("split([3], )", "split([2, 1], )"), "more than one table-batched embedding"),
    "other interaction": (text("torch.bmm(cat_1, transpose)", "torch.bmm(cat_1, cat_1)"),
                          "does not multiply the vectors with themselves"),
    "other stack": (text("[-1, 3, 8]", "[-1, 8, 3]"), "the stack of its embeddings is not [batch, features, dim]"),
    "loop": (text("    return _15", "    while True:\n      pass\n    return _15"), "of an unknown kind, While"),
    "broken text": (text("return _15", "return ("), "the code of its forward cannot be parsed"),
    "no forward": (text("def forward", "def backward"), "its class GraphModule has no forward"),
    "renamed key": (text('_keys = ["f0",', '_keys = ["g0",'), "does not name its features as the request does"),
    "repeated key": (text('_keys = ["f0",', '_keys = ["f1",'), "it has the input key 'f1' twice"),
    "feature used twice": (text('to_dict["f0"]', 'to_dict["f1"]'), "its interaction does not use each feature once"),
    "not a graph": (lambda made: setattr(made.root, "type_name", "__torch__.mine.Net"), "root is a Net, want an FX"),
    "big endian": (lambda made: setattr(made, "byte_order", b"big"), "its numbers are big-endian, want little"),
    "out of storage": (lambda made: setattr(made.root.state["_tensor_constant1"], "begin", 7),
                       "a tensor reaches to value 13 of the 12 in storage"),
    "not contiguous": (lambda made: setattr(made.root.state["_tensor_constant0"], "strides", (2,)), "not contiguous"),
    "65 dimensions": (setting(index_remappings_array=View(np.zeros(0, "<i4"), 0, (0,) * 65, (1,) * 65)),
                      "impossible shape"),
    "negative begin": (lambda made: setattr(made.root.state["_tensor_constant1"], "begin", -1), "data.pkl is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_archive_that_cannot_be_served_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    spoil, reason = REFUSALS[name]
    made = draft(Shape())
    spoil(made)
    assert reason in refusal(made.write(tmp_path / "ads.pt"))


def test_key_that_no_table_reads_is_refused(tmp_path: Path) -> None:
    shape = Shape(sharded=False, keys=("f2", "extra", "f0", "f1"))
    assert refusal(draft(shape).write(tmp_path / "ads.pt")) == "its input key 'extra' is read by no table"


def test_dim_that_the_server_does_not_take_is_refused(tmp_path: Path) -> None:
    shape = replace(Shape(), dim=6, formats=(RowFormat.FP32,) * 3)
    assert "dim must be a multiple of 4, got 6" in refusal(draft(shape).write(tmp_path / "ads.pt"))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere.pt") == "it cannot be read (No such file or directory)"


def test_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ads.pt"
    path.write_bytes(b"not a zip")
    assert refusal(path).startswith("it is not a zip archive or is damaged")


def test_plain_torch_save_file_is_refused(tmp_path: Path) -> None:
    path = draft(Shape()).write(tmp_path / "ads.pt", constants_pkl=None)
    assert refusal(path) == "it is not a TorchScript archive: it has no constants.pkl"


def test_truncated_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ads.pt"
    made = draft(Shape())
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in made.members().items():
            archive.writestr(f"ads/{name}", data[:-4] if name == "data/0" else data)
    assert refusal(path) == "its storage 0 has 92 bytes, its pickle states 96"


def test_lost_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ads.pt"
    made = draft(Shape())
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in made.members().items():
            if name != "data/0":
                archive.writestr(f"ads/{name}", data)
    assert refusal(path) == "it has no member data/0"


def test_flipped_byte_in_a_table_is_refused(tmp_path: Path) -> None:
    made = draft(Shape())
    path = made.write(tmp_path / "ads.pt")
    data = bytearray(path.read_bytes())
    data[data.index(made.embedding["weights_host"].tobytes()) + 17] ^= 1
    path.write_bytes(data)
    assert "is damaged" in refusal(path)

"""A model file that cannot be used is refused in one sentence that names it, and nothing is served."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from tests.serving.processes import DEMO, narsil, only_sentence


def with_metadata(**changes: str) -> bytes:
    """The demo's file with other metadata."""
    data = DEMO.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] |= changes
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + data[8 + size :]


def flipped(at: int) -> bytes:
    data = bytearray(DEMO.read_bytes())
    data[at] ^= 1
    return bytes(data)


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is not a safetensors file or is truncated"),
    "text": (lambda: b"hello, world; this is no model\n" * 9, "is not a safetensors file or is truncated"),
    "a zip": (lambda: b"PK\x03\x04" + bytes(200), "is not a safetensors file or is truncated"),
    "cut in the header": (lambda: DEMO.read_bytes()[:1000], "is not a safetensors file or is truncated"),
    "cut by a byte": (lambda: DEMO.read_bytes()[:-1], "is not a safetensors file or is truncated"),
    "a byte too long": (lambda: DEMO.read_bytes() + b"\0", "is not a safetensors file or is truncated"),
    "a flipped bit in the weights": (lambda: flipped(-1), "do not have the SHA-256"),
    "another program's": (
        lambda: save({"weight": np.zeros(3, np.float32)}, {"format": "pt"}),
        "is a safetensors file but not a narsil-graph model",
    ),
    "without metadata": (
        lambda: save({"weight": np.zeros(3, np.float32)}),
        "is a safetensors file but not a narsil-graph model",
    ),
    "of a newer format": (lambda: with_metadata(narsil="2"), "is of model format 2, this version reads 1: upgrade"),
    "with an empty specification": (lambda: with_metadata(spec="{}"), "is damaged"),
    "with no JSON for a specification": (lambda: with_metadata(spec="{"), "is damaged"),
    "with another digest": (lambda: with_metadata(sha256="0"), "SHA-256"),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_model_file_is_one_sentence_that_names_it(tmp_path: Path, case: str) -> None:
    make, words = FILES[case]
    path = tmp_path / "m.safetensors"
    path.write_bytes(make())
    ended = narsil("inspect", path)
    assert ended.returncode == 1
    assert str(path) in only_sentence(ended)
    assert words in only_sentence(ended)


@pytest.mark.parametrize("command", [["serve"], ["doctor"], ["predict", "--input", "x.npz", "-o", "y.npz"]])
def test_every_command_refuses_a_damaged_model(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(flipped(-1))
    np.savez(tmp_path / "x.npz", dense=np.zeros((1, 13), np.float32), ids=np.zeros((1, 26), np.int32))
    name, *rest = [str(tmp_path / word) if word.endswith(".npz") else word for word in command]
    ended = narsil(name, *rest, *([path] if name == "doctor" else ["--model", path]))
    assert ended.returncode == 1
    assert only_sentence(ended) == f"{path} is damaged: its weights do not have the SHA-256 that it states"

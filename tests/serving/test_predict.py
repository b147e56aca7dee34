"""`predict` scores a file as a server would, and says in one sentence what is wrong with one that it cannot score."""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from narsil_graph.model.weights import Model
from narsil_transport.wire import InferRequest
from tests.serving.peers import assert_right, multi_hot, one_hot
from tests.serving.processes import DEMO, ServerProcess, narsil, only_sentence, usage_error

Arrays = dict[str, npt.NDArray[np.generic]]


def arrays_of(request: InferRequest) -> Arrays:
    named = {"dense": request.dense, "ids": request.ids, "lengths": request.lengths, "values": request.values}
    return {name: array for name, array in named.items() if array is not None}


def write(path: Path, arrays: Arrays) -> Path:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path


def scores_in(path: Path) -> npt.NDArray[np.float32]:
    with np.load(path) as file:
        assert file.files == ["scores"]
        scores: npt.NDArray[np.float32] = file["scores"]
    assert scores.dtype == np.float32
    return scores


@pytest.mark.parametrize("request_of", [lambda m: one_hot(m, 700), lambda m: multi_hot(m, 30)], ids=["ids", "bags"])
def test_connected_predict_writes_the_models_scores(
    server: ServerProcess, model: Model, tmp_path: Path, request_of: Callable[[Model], InferRequest]
) -> None:
    source, output = write(tmp_path / "in.npz", arrays_of(request_of(model))), tmp_path / "scores"
    ended = narsil("predict", "--connect", server.endpoint, "--input", source, "-o", output)
    assert ended.returncode == 0, ended.stderr
    request = request_of(model)
    assert ended.stdout == f"wrote {output}: {request.rows} scores\n"
    assert_right(scores_in(output), model, request)


@pytest.mark.parametrize("request_of", [lambda m: one_hot(m, 700), lambda m: multi_hot(m, 600)], ids=["ids", "bags"])
def test_local_predict_writes_the_models_scores(
    model: Model, tmp_path: Path, request_of: Callable[[Model], InferRequest]
) -> None:
    source, output = write(tmp_path / "in.npz", arrays_of(request_of(model))), tmp_path / "out.npz"
    ended = narsil("predict", "--model", DEMO, "--input", source, "-o", output)
    assert ended.returncode == 0, ended.stderr
    assert_right(scores_in(output), model, request_of(model))


def test_local_predict_takes_any_integers_and_floats_and_rows_without_ids(model: Model, tmp_path: Path) -> None:
    bags = multi_hot(model, 3)
    assert bags.lengths is not None and bags.values is not None
    bags.lengths[:] = 0
    bags.values = bags.values[:0]
    arrays = arrays_of(bags) | {"dense": bags.dense.astype(np.float64), "lengths": bags.lengths.astype(np.uint8)}
    source = write(tmp_path / "in.npz", arrays)
    ended = narsil("predict", "--model", DEMO, "--engine", "eager", "--input", source, "-o", tmp_path / "out.npz")
    assert ended.returncode == 0, ended.stderr
    assert_right(scores_in(tmp_path / "out.npz"), model, bags)


def without(name: str) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.pop(name)


def put(name: str, array: object) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.__setitem__(name, np.asarray(array))


WANT = "want dense, and ids or lengths + values"
BAD_ARRAYS: dict[str, tuple[Callable[[Arrays], object], str]] = {
    "no arrays": (lambda arrays: arrays.clear(), f"has nothing; {WANT}"),
    "no dense": (without("dense"), f"has ['ids']; {WANT}"),
    "no ids": (without("ids"), f"has ['dense']; {WANT}"),
    "ids and bags": (put("lengths", [[1]]), f"has ['dense', 'ids', 'lengths']; {WANT}"),
    "an unknown array": (put("labels", [1]), f"has the array 'labels'; {WANT}"),
    "dense of integers": (put("dense", np.zeros((3, 13), int)), "dense is int64 [3, 13], want 2 dimensions of float32"),
    "dense of text": (put("dense", [["a"]]), "dense is <U1 [1, 1], want 2 dimensions of float32"),
    "ids of floats": (put("ids", np.zeros((3, 26))), "ids is float64 [3, 26], want 2 dimensions of int64"),
    "ids of one dimension": (put("ids", [1, 2]), "ids is int64 [2], want 2 dimensions of int64"),
    "ids beyond int64": (put("ids", np.full((3, 26), 2**64 - 1, np.uint64)), "ids has a value that int64 cannot hold"),
    "dense of objects": (put("dense", np.array([[None]])), "Object arrays cannot be loaded"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_wrong_arrays_are_one_sentence_that_names_the_file(model: Model, tmp_path: Path, case: str) -> None:
    change, words = BAD_ARRAYS[case]
    arrays = arrays_of(one_hot(model, 3))
    change(arrays)
    source = write(tmp_path / "in.npz", arrays)
    # Nothing listens there: the file is refused before anyone is asked.
    ended = narsil("predict", "--connect", "ipc:///nowhere", "--input", source, "-o", tmp_path / "out.npz")
    assert ended.returncode == 1
    assert str(source) in only_sentence(ended)
    assert words in only_sentence(ended)
    assert not (tmp_path / "out.npz").exists()


def test_lengths_beyond_int32_are_refused_not_cut(model: Model, tmp_path: Path) -> None:
    arrays = arrays_of(multi_hot(model, 3))
    arrays["lengths"] = arrays["lengths"].astype(np.int64) + 2**32
    source = write(tmp_path / "in.npz", arrays)
    ended = narsil("predict", "--connect", "ipc:///nowhere", "--input", source, "-o", tmp_path / "out.npz")
    assert only_sentence(ended) == f"{source}: lengths has a value that int32 cannot hold"


def single_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def cut_short(path: Path) -> None:
    write(path, {"dense": np.zeros((300, 13), np.float32)})
    path.write_bytes(path.read_bytes()[:5000])


def foreign_member(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as members:
        members.writestr("dense", "1 2 3")
        members.writestr("ids", "1 2 3")


def giant_member(path: Path) -> None:
    """An array that states 16 TiB."""
    with zipfile.ZipFile(path, "w") as members, members.open("dense.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 4)})


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "No such file or directory"),
    "empty": (lambda path: path.write_bytes(b""), "cannot read"),
    "text": (lambda path: path.write_text("1,2,3\n"), "cannot read"),
    "a single array": (single_array, "it is a single array"),
    "cut short": (cut_short, "cannot read"),
    "members that are no arrays": (foreign_member, "dense is |S5 [], want 2 dimensions of float32"),
    "an array that claims more than the file holds": (giant_member, "cannot read"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_wrong_file_is_one_sentence_that_names_it(tmp_path: Path, case: str) -> None:
    make, words = BAD_FILES[case]
    source = tmp_path / "in.npz"
    make(source)
    ended = narsil("predict", "--connect", "ipc:///nowhere", "--input", source, "-o", tmp_path / "out.npz")
    assert ended.returncode == 1
    assert str(source) in only_sentence(ended)
    assert words in only_sentence(ended)


REFUSED: dict[str, tuple[Callable[[Model], InferRequest], str]] = {
    "no rows": (lambda m: one_hot(m, 0), "want at least one row"),
    "an id out of range": (
        lambda m: replace(one_hot(m, 1), ids=np.full((1, 26), 2, np.int32)),
        "OUT_OF_RANGE: feature 'gender', row 0: id 2 is not in [0, 2)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusal_is_the_same_sentence_by_a_server_and_here(
    server: ServerProcess, model: Model, tmp_path: Path, case: str
) -> None:
    make, words = REFUSED[case]
    source = write(tmp_path / "in.npz", arrays_of(make(model)))
    for where in (("--connect", server.endpoint), ("--model", DEMO)):
        ended = narsil("predict", *where, "--input", source, "-o", tmp_path / "out.npz")
        assert ended.returncode == 1
        assert words in only_sentence(ended)


def test_server_that_is_not_there_is_one_sentence_in_bounded_time(model: Model, tmp_path: Path) -> None:
    source = write(tmp_path / "in.npz", arrays_of(one_hot(model, 1)))
    endpoint = f"ipc://{tmp_path}/none"
    ended = narsil("predict", "--connect", endpoint, "--timeout", "0.2", "--input", source, "-o", tmp_path / "o.npz")
    assert ended.returncode == 1
    assert only_sentence(ended).startswith(f"{endpoint}: ")


def test_output_that_cannot_be_written_is_one_sentence(server: ServerProcess, model: Model, tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.npz", arrays_of(one_hot(model, 1))), tmp_path / "none" / "out.npz"
    ended = narsil("predict", "--connect", server.endpoint, "--input", source, "-o", output)
    assert ended.returncode == 1
    assert only_sentence(ended) == f"cannot write {output}: No such file or directory"


@pytest.mark.parametrize("where", [[], ["--connect", "ipc://x", "--model", str(DEMO)]], ids=["neither", "both"])
def test_one_place_to_score_is_wanted(tmp_path: Path, where: list[str]) -> None:
    ended = narsil("predict", *where, "--input", tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    assert usage_error(ended) == "want one of --connect and --model"

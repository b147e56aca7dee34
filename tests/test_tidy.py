"""The limits that keep the code readable, and the directions in which imports may run."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILE_LINES_MAX, FUNCTION_LINES_MAX = 300, 50
ENGINE, TRANSPORT, CLIENT = "narsil_graph", "transport/narsil_transport", "clients/python/narsil_client"
FOLDERS = [ENGINE, TRANSPORT, "clients/python", "tests", "benchmarks", "examples"]
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "manager", "managers"}


def files_of(*folders: str) -> list[Path]:
    """Every Python file below these folders."""
    found = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    assert found, f"{folders} hold no Python: has a package moved?"
    return found


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports_of(path: Path) -> Iterator[str]:
    """The dotted name of everything that ``path`` imports, at its top or inside a function."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(module: str, *folders: str) -> set[str]:
    """The files below ``folders`` that import ``module`` or something of it."""
    return {
        str(path.relative_to(ROOT))
        for path in files_of(*folders)
        if any(name == module or name.startswith(module + ".") for name in imports_of(path))
    }


def test_no_file_is_longer_than_can_be_read() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files_of(*FOLDERS)}
    assert {path: lines for path, lines in lengths.items() if lines > FILE_LINES_MAX} == {}


def test_no_function_is_longer_than_can_be_read() -> None:
    lengths = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in files_of(*FOLDERS)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}


def test_no_file_is_named_for_nothing() -> None:
    assert [path for path in files_of(*FOLDERS) if FORBIDDEN_NAMES & {*path.stem.split("_"), path.parent.name}] == []


@pytest.mark.parametrize("module", ["torch", "narsil_graph", "narsil_client"])
def test_transport_stands_alone(module: str) -> None:
    assert importers(module, TRANSPORT) == set()


@pytest.mark.parametrize("module", ["torch", "narsil_graph"])
def test_client_needs_the_transport_only(module: str) -> None:
    assert importers(module, "clients/python") == set()


def test_model_needs_neither_torch_nor_the_engine() -> None:
    assert importers("torch", f"{ENGINE}/model") == set()
    ours = {name for path in files_of(f"{ENGINE}/model") for name in imports_of(path) if name.startswith("narsil_")}
    assert {name for name in ours if not name.startswith(("narsil_graph.model.", "narsil_graph.errors."))} == set()


def test_only_the_header_knows_msgpack() -> None:
    assert importers("msgpack", ENGINE, TRANSPORT, CLIENT) == {f"{TRANSPORT}/header.py"}


def test_only_router_and_client_hold_sockets() -> None:
    outside_client = {path for path in importers("zmq", ENGINE, TRANSPORT, CLIENT) if not path.startswith(CLIENT)}
    sockets = {f"{TRANSPORT}/{name}.py" for name in ("router", "connections", "curve", "security")}
    # The last two know libzmq's key format and its version, and open nothing.
    assert outside_client == sockets | {f"{TRANSPORT}/keys.py", f"{ENGINE}/bind_check.py"}


def test_nothing_imports_the_fbgemm_package() -> None:
    assert importers("fbgemm_gpu", *FOLDERS) == set()


def loaded_by(code: str) -> set[str]:
    """The top-level modules that are loaded once a new interpreter has run ``code``."""
    script = f"import sys\n{code}\nprint('loaded', *sorted({{name.partition('.')[0] for name in sys.modules}}))"
    path = [str(ROOT), str(ROOT / "transport"), str(ROOT / "clients" / "python")]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONPATH": ":".join(path)},
    )
    return set(done.stdout.rpartition("loaded ")[2].split())


def test_help_of_the_command_line_loads_neither_torch_nor_numpy() -> None:
    loaded = loaded_by("from narsil_graph.cli import cli\ncli(['--help'], standalone_mode=False)")
    assert "narsil_graph" in loaded
    assert not loaded & {"torch", "numpy", "fbgemm_gpu"}


@pytest.mark.parametrize("module", ["narsil_client", "narsil_transport.router", "narsil_graph.model.torchrec"])
def test_import_loads_no_torch(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert module.partition(".")[0] in loaded
    assert not loaded & {"torch", "fbgemm_gpu"}

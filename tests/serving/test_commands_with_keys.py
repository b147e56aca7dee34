"""Every command that asks a server can ask one that demands keys, and says what is wrong with them."""

from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from narsil_graph.cli import cli
from narsil_graph.errors import Failure
from narsil_graph.model.weights import Model
from tests.serving.keys import Keys
from tests.serving.processes import ServerProcess

# The shortest that `bench ab` takes: six rounds of four blocks, twice.
AB = ("--seconds", "2", "--block-ms", "20", "--margin", "0.99", "--resolution", "0.99")
ROWS = 3


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def server(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Generator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("served"), "--buckets", "8", *keys.arguments) as server:
        yield server


def ran(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def sentence_of(result: Result) -> str:
    """Of a command that was asked wrongly."""
    error = result.exception
    assert isinstance(error, SystemExit | Failure), error
    assert (error.code if isinstance(error, SystemExit) else error.exit_code) == 2
    return result.output if isinstance(error, SystemExit) else str(error)


def commands(endpoint: str, folder: Path, model: Model) -> dict[str, list[object]]:
    features, tables = len(model.spec.dense_features), len(model.spec.feature_tables)
    np.savez(folder / "in.npz", dense=np.zeros((ROWS, features), np.float32), ids=np.zeros((ROWS, tables), np.int64))
    return {
        "predict": ["predict", "--connect", endpoint, "--input", folder / "in.npz", "-o", folder / "out.npz"],
        "conformance": ["conformance", endpoint],
        "load": ["bench", "load", endpoint, "--rate", 50, "--seconds", 0.2, "--warm-up-s", 0, "--sizes", "constant:3"],
        "ab": ["bench", "ab", endpoint, endpoint, *AB, "--sizes", "constant:3"],
        "profile": ["bench", "profile", "--connect", endpoint, "--rows", ROWS, "--requests", 5],
    }


@pytest.mark.parametrize("name", ["predict", "conformance", "load", "ab", "profile"])
def test_command_with_keys_is_served(
    name: str, server: ServerProcess, keys: Keys, model: Model, tmp_path: Path
) -> None:
    result = ran(*commands(server.endpoint, tmp_path, model)[name], *keys.client_arguments)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", ["predict", "conformance", "load", "ab", "profile"])
def test_key_without_the_other_is_told_before_anything_is_asked(
    name: str, keys: Keys, model: Model, tmp_path: Path
) -> None:
    command = commands("ipc:///nowhere", tmp_path, model)[name]
    for half in (keys.client_arguments[:2], keys.client_arguments[2:]):
        assert sentence_of(ran(*command, *half)) == "--curve-server-key and --curve-secret-key want each other"


def test_bad_keys_are_told_in_a_sentence(keys: Keys, model: Model, tmp_path: Path) -> None:
    command = commands("ipc:///nowhere", tmp_path, model)["profile"]
    for key, secret, sentence in (
        ("x", keys.client_secret, "want a server_key of 40 Z85 characters"),
        (keys.server_key, tmp_path / "none", "none"),
    ):
        assert sentence in sentence_of(ran(*command, "--curve-server-key", key, "--curve-secret-key", secret))


@pytest.mark.parametrize("command", [("predict", "--model", "m", "--input", "i", "-o", "o"), ("bench", "profile")])
def test_keys_are_for_a_server_that_is_asked(command: tuple[str, ...], keys: Keys) -> None:
    assert "the keys are for --connect" in sentence_of(ran(*command, *keys.client_arguments))

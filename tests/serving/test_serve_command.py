"""What `serve` says when it is ready, where its settings come from, and how it refuses wrong ones."""

import socket
from pathlib import Path

import pytest

from narsil_graph.model.weights import Model
from tests.serving.processes import ServerProcess, narsil, only_sentence, usage_error


def said(line: str) -> dict[str, str]:
    """The key=value words of a ready line."""
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def test_ready_file_says_who_serves_what_and_how(server: ServerProcess, model: Model) -> None:
    line = server.ready_line
    assert line == server.log.splitlines()[-1] + "\n"
    assert line.startswith("ready ipc://")
    values = said(line)
    assert 0 < float(values.pop("error")) < 1e-5
    assert float(values.pop("seconds")) > 0 and float(values.pop("mib")) > 10
    assert values == {
        "model": model.spec.name,
        "version": model.version,
        "device": "cpu",
        "engine": "plan",
        "precision": "f32",
        "threads": "1",
        "mode": "batch",
        "buckets": "1,8,64",
        "launches": "1:1/0/0,8:1/0/0,64:1/0/56",
    }
    assert [path.name for path in server.ready_path.parent.glob("ready*")] == ["ready"]


def test_dry_run_with_every_source_of_settings_obeys_flag_then_environment_then_file(tmp_path: Path) -> None:
    config, ready = tmp_path / "serve.toml", tmp_path / "ready"
    config.write_text(
        f'bind = "ipc://{tmp_path}/file"\nbuckets = [2, 4]\nthreads = 2\nmode = "inline"\n'
        f'engine = "eager"\nallow_nonfinite = true\nready_file = "{ready}"\n'
    )
    ended = narsil(
        *("serve", "--dry-run", "--mode", "worker"),
        environment={
            "NARSIL_CONFIG": str(config),
            "NARSIL_MODE": "batch",
            "NARSIL_BIND": f"ipc://{tmp_path}/variable",
            "NARSIL_ENGINE": "plan",
        },
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ready.read_text()
    assert ended.stdout.startswith(f"ready ipc://{tmp_path}/variable ")
    values = said(ended.stdout)
    assert values["mode"] == "worker"
    assert values["engine"] == "plan"
    assert (values["buckets"], values["threads"]) == ("2,4", "2")
    assert values["precision"] == "f32"


def test_ready_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    missing = tmp_path / "none" / "ready"
    ended = narsil("serve", "--buckets", "1", "--bind", f"ipc://{tmp_path}/s", "--ready-file", missing)
    assert ended.returncode == 1
    assert only_sentence(ended) == f"cannot write {missing}: No such file or directory"


def test_tcp_port_in_use_is_one_sentence_and_exit_2(tmp_path: Path) -> None:
    (tmp_path / "ready").write_text("ready: an earlier run said so")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        ended = narsil("serve", "--buckets", "1", "--bind", endpoint, "--ready-file", tmp_path / "ready")
    assert ended.returncode == 2
    assert only_sentence(ended) == f"cannot bind {endpoint}: Address already in use"
    # A watcher does not take an earlier run's file for this one's.
    assert not (tmp_path / "ready").exists()


def test_ipc_path_of_a_live_server_is_one_sentence_and_exit_2(server: ServerProcess) -> None:
    ended = narsil("serve", "--buckets", "1", "--bind", server.endpoint)
    assert ended.returncode == 2
    assert only_sentence(ended) == f"cannot bind {server.endpoint}: another server listens there"
    assert server.process.poll() is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], "No such option '--nonsense'"),
        (["--mode", "fast"], "'fast' is not one of 'batch', 'worker', 'inline'"),
        (["--threads", "0"], "0 is not in the range x>=1"),
        (["--request-rows-max", "many"], "'many' is not a valid integer"),
        (["--buckets", "4,2"], "want row counts of at least 1 that increase, got '4,2'"),
        (["--buckets", ""], "want row counts such as 1,2,4,8, got ''"),
        (["--model", "/"], "'/' is a directory"),
        (["surplus"], "unexpected extra argument (surplus)"),
        (["--config", "/none.toml"], "cannot read --config /none.toml: No such file or directory"),
        (["--window", "0"], "0 is not in the range x>=1"),
        (["--connections-max", "few"], "'few' is not a valid integer"),
        (["--memory-max", "-1"], "-1 is not in the range x>=1"),
        (["--zmq-io-threads", "65"], "65 is not in the range 1<=x<=64"),
        (["--authorized-clients", __file__], f"'{__file__}' is a file"),
    ],
)
def test_wrong_flag_is_a_usage_error(arguments: list[str], words: str) -> None:
    assert words in usage_error(narsil("serve", *arguments))


def test_wrong_environment_variable_is_a_usage_error() -> None:
    assert "'fast' is not one of" in usage_error(narsil("serve", environment={"NARSIL_MODE": "fast"}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bucket = [1]", "has the unknown key 'bucket'; did you mean 'buckets'?"),
        ("request-rows-max = 3", "has the unknown key 'request-rows-max'; did you mean 'request_rows_max'?"),
        ("colour = 3", "has the unknown key 'colour'"),
        ('config = "more.toml"', "has the unknown key 'config'"),
        ("[serve]\nthreads = 1", "has the unknown key 'serve'"),
        ("[threads]\nmost = 1", "'threads' is a table, want one value"),
        ('threads = "two"', "'two' is not a valid integer"),
        ("threads = 1.5", "'1.5' is not a valid integer"),
        ("threads = true", "'True' is not a valid integer"),
        ('allow_nonfinite = "perhaps"', "'perhaps' is not a valid boolean"),
        ('mode = "fast"', "'fast' is not one of"),
        ("buckets = [8, 4]", "want row counts of at least 1 that increase, got '8,4'"),
        ("threads = ", "is not TOML: "),
        ("threads = 1\nthreads = 2", "is not TOML: "),
        ("\udcff", "is not TOML: "),
    ],
)
def test_wrong_config_file_is_one_sentence_that_names_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    config = tmp_path / "serve.toml"
    config.write_bytes(text.encode(errors="surrogateescape"))
    said = usage_error(narsil("serve", "--config", config))
    assert words in said
    assert str(config) in said or "Invalid value for" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bind", "ftp://here", "--insecure-bind"], "cannot bind ftp://here: Protocol not supported"),
        (["--model", "/none.safetensors"], "cannot read the model /none.safetensors: No such file or directory"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(arguments: list[str], words: str) -> None:
    ended = narsil("serve", "--buckets", "1", *arguments)
    assert ended.returncode == (2 if "--bind" in arguments else 1)
    assert only_sentence(ended).startswith(words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--curve-secret-key", "/none"], "--curve-secret-key and --authorized-clients want each other"),
        (["--authorized-clients", "/none"], "--curve-secret-key and --authorized-clients want each other"),
        (["--curve-secret-key", "/none", "--authorized-clients", "/"], "/none"),
        (["--bind", "tcp://0.0.0.0:5555"], "--bind tcp://0.0.0.0:5555 can be reached from other machines"),
        (["--workers", "2", "--bind", "tcp://0.0.0.0:5555"], "--bind tcp://0.0.0.0:5555 can be reached from other"),
        (["--memory-max", "3"], "--memory-max 3: the server has "),
        (["--connections-max", "1000000000"], "--connections-max 1000000000 needs 1000000100 open files, this process"),
    ],
)
def test_door_that_cannot_be_kept_is_one_sentence_and_exit_2(arguments: list[str], words: str) -> None:
    ended = narsil("serve", "--buckets", "1", "--dry-run", *arguments)
    assert ended.returncode == 2
    assert words in only_sentence(ended)


def test_insecure_bind_is_obeyed() -> None:
    ended = narsil("serve", "--buckets", "1", "--dry-run", "--bind", "tcp://0.0.0.0:*", "--insecure-bind")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("ready tcp://0.0.0.0:")

"""Which processes listen at an endpoint."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from narsil_graph.bench import listeners as module
from narsil_graph.bench.listeners import listeners


@contextmanager
def bound(endpoint: str) -> Generator[str]:
    """Where it listens; the port is libzmq's to choose."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind(endpoint)
        yield socket.getsockopt_string(zmq.LAST_ENDPOINT)


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:*", "ipc://@narsil-listeners-{pid}", "ipc://{folder}/s"])
def test_process_that_listens_is_found_and_gone_with_its_socket(endpoint: str, tmp_path: Path) -> None:
    with bound(endpoint.format(pid=os.getpid(), folder=tmp_path)) as place:
        assert listeners(place) == (os.getpid(),)
        assert listeners(place.replace("127.0.0.1", "localhost")) == (os.getpid(),)
    assert listeners(place) == ()


def test_path_is_the_file_and_not_its_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with bound(f"ipc://{tmp_path}/s"):
        assert listeners("ipc://s") == listeners(f"ipc://{tmp_path}/./s") == (os.getpid(),)


def test_client_of_a_server_is_not_one(tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(f"ipc://{tmp_path}/nobody")
        assert listeners(f"ipc://{tmp_path}/nobody") == ()


@pytest.mark.parametrize(
    "endpoint", ["tcp://10.0.0.1:22", "tcp://somewhere:5555", "tcp://127.0.0.1:*", "", "inproc://a"]
)
def test_endpoint_that_may_be_elsewhere_has_none(endpoint: str) -> None:
    assert listeners(endpoint) == ()


def test_processes_that_end_or_hide_meanwhile_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "8" / "fd").mkdir(parents=True)
    (tmp_path / "8" / "fd" / "1").write_text("no link any more")
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text("heading\n 0: 0100007F:0050 00000000:0000 0A 0 0 0 0 0 77 1\n")
    monkeypatch.setattr(module, "PROC", tmp_path)
    assert listeners("tcp://127.0.0.1:80") == ()

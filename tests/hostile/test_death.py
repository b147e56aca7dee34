"""Processes that are killed or stopped in the middle of a request: what everyone else notices."""

import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from narsil_client import Client
from narsil_graph.model.weights import Model
from tests.hostile import asking
from tests.hostile.witness import Witness, arguments
from tests.serving.peers import assert_right, one_hot
from tests.serving.processes import ENVIRONMENT, ServerProcess

STOPPED_S = 5.0
# One row a launch: forty requests of 100 rows keep a server busy for long enough to be killed in its middle.
SLOW = ("--buckets", "1")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        folder.mkdir()
    # They start side by side.
    first, second = (ServerProcess(folder, *SLOW) for folder in folders)
    with first, second:
        yield first, second


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("slow"), *SLOW) as running:
        yield running
        assert running.stop() == 0, running.log


@contextmanager
def client_process(endpoint: str, *, count: int, rows: int) -> Generator[subprocess.Popen[str]]:
    """A client that has sent so many requests, and been answered none or some."""
    command = [sys.executable, "-m", asking.__name__, endpoint, str(count), str(rows)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "sent\n"
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def test_killed_clients_queue_is_dropped_and_nobody_waits_for_it(server: ServerProcess, model: Model) -> None:
    with Witness(server.endpoint, model=model) as witness:
        with client_process(server.endpoint, count=60, rows=1000) as client:
            client.kill()
            witness.ask_for(1)
        assert witness.saw_only_right_answers(wait_s_max=1)
        assert witness.sees(lambda: witness.unanswered() == 0, within_s=2)


def test_requests_of_a_killed_server_are_answered_by_the_other(
    servers: tuple[ServerProcess, ServerProcess], model: Model
) -> None:
    doomed, other = servers
    request = one_hot(model, 200)
    with (
        Client(doomed.endpoint, other.endpoint, timeout_s=10) as client,
        Witness(other.endpoint, model=model) as witness,
    ):
        scores = client.predict(**arguments(request)).scores
        assert_right(scores, model, request)
        pending = [client.submit(**arguments(request)) for _ in range(40)]
        doomed.process.kill()
        begin = time.monotonic()
        witness.ask()
        # Two processes may have picked other kernels: right, but not to the bit.
        for each in pending:
            assert_right(each.result().scores, model, request)
        assert time.monotonic() - begin < 5
        assert witness.saw_only_right_answers(wait_s_max=2)


def test_stopped_client_disturbs_nobody_and_goes_on_where_it_was(server: ServerProcess, model: Model) -> None:
    with (
        Witness(server.endpoint, model=model) as witness,
        client_process(server.endpoint, count=40, rows=100) as client,
    ):
        client.send_signal(signal.SIGSTOP)
        witness.ask_for(STOPPED_S)
        client.send_signal(signal.SIGCONT)
        ended, _ = client.communicate(timeout=20)
        assert ended == "scored 40 failed 0\n"
        assert witness.saw_only_right_answers(wait_s_max=2)


def test_stopped_server_costs_those_who_have_another_three_heartbeats_and_the_rest_its_absence(
    servers: tuple[ServerProcess, ServerProcess], model: Model
) -> None:
    stopped, other = servers
    request = one_hot(model, 4)
    with (
        Witness(other.endpoint, model=model) as bystander,
        Witness(stopped.endpoint, other.endpoint, model=model) as either,
        Client(stopped.endpoint, timeout_s=15) as faithful,
    ):
        faithful.health()
        stopped.process.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        pending = faithful.submit(**arguments(request))
        while time.monotonic() - begin < STOPPED_S:
            bystander.ask()
            either.ask()
        stopped.process.send_signal(signal.SIGCONT)
        assert_right(pending.result().scores, model, request)
        assert bystander.saw_only_right_answers(wait_s_max=0.5)
        assert either.saw_only_right_answers(wait_s_max=4.5)
        assert either.ask() == "right"
    assert stopped.stop() == 0, stopped.log

"""`--workers 2`: two endpoints under one supervisor, which replaces a worker that dies and stops with both drained."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from narsil_client import Client
from narsil_graph.model.weights import Model
from narsil_transport.wire import ScoresReply
from tests.serving.peers import Peer, assert_right, multi_hot, one_hot
from tests.serving.processes import PATIENCE_S, ServerProcess, narsil, only_sentence


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("pair"), "--workers", "2", "--buckets", "1,8") as running:
        yield running
        assert running.stop() == 0, running.log


def endpoints(pair: ServerProcess) -> list[str]:
    ready, count, workers, *bound = pair.ready_line.split()
    assert (ready, count, workers) == ("ready", "2", "workers")
    return bound


def worker_pids(supervisor: int) -> list[int]:
    """In the order they were started."""
    return [int(pid) for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]


def wait_until(happened: Callable[[], bool], pair: ServerProcess) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, pair.log
        time.sleep(0.02)


def test_client_of_both_workers_is_served_by_both(pair: ServerProcess, model: Model) -> None:
    request, bags = one_hot(model, 20), multi_hot(model, 5)
    first, second = endpoints(pair)
    with Client(first, second, timeout_s=PATIENCE_S) as client, Peer(first) as one, Peer(second) as other:
        # Its requests go to both once it is connected to both.
        while not all(peer.metadata().meta["counters"]["replies"].get("OK", 0) > 1 for peer in (one, other)):
            assert_right(client.predict(dense=request.dense, ids=request.ids).scores, model, request)
            assert_right(client.predict(dense=bags.dense, lengths=bags.lengths, values=bags.values).scores, model, bags)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")
def test_workers_are_pinned_to_cpus_of_their_own(pair: ServerProcess) -> None:
    pinned = [os.sched_getaffinity(pid) for pid in worker_pids(pair.process.pid)]
    assert [len(cpus) for cpus in pinned] == [1, 1]
    assert pinned[0] != pinned[1]


def test_killed_worker_is_replaced_while_the_other_serves(pair: ServerProcess, model: Model) -> None:
    first, second = endpoints(pair)
    before = worker_pids(pair.process.pid)
    with Peer(first) as one, Peer(second) as other:
        one.scores(one_hot(model, 3))
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: before[0] not in worker_pids(pair.process.pid), pair)
        assert_right(other.scores(one_hot(model, 9)), model, one_hot(model, 9))
        with Peer(first) as again:
            assert_right(again.scores(one_hot(model, 9)), model, one_hot(model, 9))
            assert again.health().uptime_s < other.health().uptime_s
    after = worker_pids(pair.process.pid)
    assert before[1] in after and before[0] not in after and len(after) == 2


def test_sigterm_drains_both_workers_and_leaves_no_process(tmp_path: Path, model: Model) -> None:
    with ServerProcess(tmp_path, "--workers", "2", "--buckets", "1") as pair:
        pids, peers = worker_pids(pair.process.pid), [Peer(endpoint) for endpoint in endpoints(pair)]
        for peer in peers:
            for _ in range(3):
                peer.send(one_hot(model, 800))
            assert peer.health().inflight == 3
        assert pair.stop() == 0
        for peer in peers:
            for _ in range(3):
                reply = peer.receive()
                assert isinstance(reply, ScoresReply)
                assert_right(reply.scores, model, one_hot(model, 800))
            peer.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_sigterm_while_the_workers_start_ends_them(tmp_path: Path) -> None:
    pair = ServerProcess(tmp_path, "--workers", "2")
    wait_until(lambda: len(worker_pids(pair.process.pid)) == 2, pair)
    assert pair.stop() == 0
    assert not pair.ready_path.exists()


def test_dry_run_of_workers_checks_each_and_ends_with_0(tmp_path: Path) -> None:
    bind = f"ipc://{tmp_path}/s"
    ended = narsil("serve", "--workers", "2", "--buckets", "1", "--bind", bind, "--dry-run")
    assert ended.returncode == 0, ended.stderr
    *each, both = sorted(ended.stdout.splitlines(), key=lambda line: line.startswith("ready 2"))
    assert sorted(line.split()[1] for line in each) == [f"{bind}.0", f"{bind}.1"]
    assert both == f"ready 2 workers {bind}.0 {bind}.1"


def test_worker_that_cannot_start_ends_the_supervisor(tmp_path: Path) -> None:
    ended = narsil("serve", "--workers", "2", "--bind", f"ipc://{tmp_path}/s", "--model", tmp_path / "none")
    assert ended.returncode == 1
    own, *_, last = ended.stderr.splitlines()
    assert own.startswith(f"narsil-graph: cannot read the model {tmp_path}/none")
    assert last == "narsil-graph: a worker ended with code 1; its own words are above"
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("bind", "words"),
    [
        ("inproc://here", "--workers needs --bind tcp://HOST:PORT or ipc://PATH, got inproc://here"),
        ("tcp://127.0.0.1:*", "--workers needs --bind tcp://HOST:PORT or ipc://PATH, got tcp://127.0.0.1:*"),
        ("tcp://127.0.0.1:65535", "--bind tcp://127.0.0.1:65535 leaves no port for worker 1"),
    ],
)
def test_endpoint_that_cannot_be_counted_up_is_refused(bind: str, words: str) -> None:
    ended = narsil("serve", "--workers", "2", "--bind", bind)
    assert ended.returncode == 2
    assert only_sentence(ended) == words

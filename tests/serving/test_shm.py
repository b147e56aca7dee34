"""Tensors in shared memory, between a real server and its clients: the same scores, whatever any client does."""

import asyncio
import fcntl
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from narsil_client import AsyncClient, Client, InvalidRequest
from narsil_client.shm import Segment, create_segment
from narsil_graph.model.weights import Model
from narsil_transport.messages import AttachReply, InferRequest, RefusalReply, ScoresReply
from narsil_transport.segments import FOLDER, SEGMENTS_MAX
from narsil_transport.status import Status
from narsil_transport.wire import decode_reply, encode_attach
from tests.serving.peers import Peer, assert_right, one_hot
from tests.serving.processes import ENVIRONMENT, ROOT, ServerProcess, narsil

SHM_BYTES = 1 << 20

pytestmark = pytest.mark.skipif(not os.path.isdir(FOLDER), reason=f"no {FOLDER} here")


@pytest.fixture(scope="module")
def shm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Every test must leave it alive."""
    with ServerProcess(tmp_path_factory.mktemp("shm"), "--buckets", "1,8,64", "--shm") as running:
        yield running
        assert running.stop() == 0, running.log


def arguments(request: InferRequest) -> dict[str, Any]:
    return {"dense": request.dense, "ids": request.ids}


def frames_scores(server: ServerProcess, request: InferRequest) -> list[float]:
    with Client(server.endpoint) as client:
        scores: list[float] = client.predict(**arguments(request)).scores.tolist()
        return scores


def reads(client: Client) -> int:
    """Requests that the server has read from any shared memory."""
    count: int = client.metadata().meta["counters"]["shm"]["reads"]
    return count


def settled(client: Client, request: InferRequest) -> None:
    """Use the client until its segment is attached: two round trips, which go on beside its requests."""
    for _ in range(3):
        client.predict(**arguments(request))


def attach(peer: Peer, segment: Segment) -> int:
    peer.send_frames([encode_attach(segment.attach_request(5))])
    reply = decode_reply(peer.socket.recv_multipart())
    assert isinstance(reply, AttachReply), reply
    segment.unlink()
    return reply.segment


def answer(peer: Peer, segment: Segment, number: int, request: InferRequest) -> ScoresReply | RefusalReply:
    loan = segment.write(request, number)
    assert loan is not None
    peer.send_frames([loan.header])
    loan.end()
    reply = peer.receive()
    assert isinstance(reply, ScoresReply | RefusalReply)
    return reply


def memory_of(segment: Segment) -> mmap.mmap:
    return segment._memory  # pyright: ignore[reportPrivateUsage]


def test_shm_without_ipc_is_refused_in_one_sentence() -> None:
    ended = narsil("serve", "--shm", "--bind", "tcp://127.0.0.1:*")
    assert ended.returncode != 0
    assert ended.stderr.splitlines()[-1].endswith("it wants --bind ipc://PATH, got tcp://127.0.0.1:*")


def test_server_without_shm_is_sent_frames(server: ServerProcess, model: Model) -> None:
    request = one_hot(model, 5)
    with Client(server.endpoint, shm_bytes=SHM_BYTES) as client:
        settled(client, request)
        assert client.predict(**arguments(request)).scores.tolist() == frames_scores(server, request)
        assert client.metadata().meta["shm"] is False


def test_scores_are_those_of_frames_and_the_segment_was_read(shm_server: ServerProcess, model: Model) -> None:
    request = one_hot(model, 7)
    with Client(shm_server.endpoint, shm_bytes=SHM_BYTES) as client:
        settled(client, request)
        before = reads(client)
        got = [client.predict(**arguments(one_hot(model, 7, seed))).scores.tolist() for seed in range(10)]
        assert reads(client) == before + 10
    assert got == [frames_scores(shm_server, one_hot(model, 7, seed)) for seed in range(10)]


def test_requests_in_flight_together_are_each_answered_right(shm_server: ServerProcess, model: Model) -> None:
    requests = [one_hot(model, 7, seed) for seed in range(20)]
    with Client(shm_server.endpoint, shm_bytes=SHM_BYTES) as client:
        settled(client, requests[0])
        for request, pending in [(each, client.submit(**arguments(each))) for each in requests]:
            assert_right(pending.result().scores, model, request)


def test_asyncio_client_uses_its_segment_too(shm_server: ServerProcess, model: Model) -> None:
    request = one_hot(model, 3)

    async def ask() -> tuple[list[float], int]:
        async with AsyncClient(shm_server.endpoint, shm_bytes=SHM_BYTES) as client:
            for _ in range(3):
                await client.predict(**arguments(request))
            counters = (await client.metadata()).meta["counters"]["shm"]["reads"]
            scores = (await client.predict(**arguments(request))).scores.tolist()
            return scores, (await client.metadata()).meta["counters"]["shm"]["reads"] - counters

    assert asyncio.run(ask()) == (frames_scores(shm_server, request), 1)


def test_what_does_not_fit_the_segment_goes_in_frames(shm_server: ServerProcess, model: Model) -> None:
    small, large = one_hot(model, 1), one_hot(model, 200)
    with Client(shm_server.endpoint, shm_bytes=4096) as client:
        settled(client, small)
        before = reads(client)
        assert client.predict(**arguments(large)).scores.tolist() == frames_scores(shm_server, large)
        assert reads(client) == before
        client.predict(**arguments(small))
        assert reads(client) == before + 1


def test_invalid_request_is_refused_and_the_segment_stays_in_use(shm_server: ServerProcess, model: Model) -> None:
    request = one_hot(model, 2)
    assert request.ids is not None
    with Client(shm_server.endpoint, shm_bytes=SHM_BYTES) as client:
        settled(client, request)
        with pytest.raises(InvalidRequest):
            client.predict(dense=request.dense[:, :-1], ids=request.ids)
        before = reads(client)
        client.predict(**arguments(request))
        assert reads(client) == before + 1


def test_segment_that_the_server_let_go_is_replaced_by_frames(shm_server: ServerProcess, model: Model) -> None:
    request = one_hot(model, 4)
    with Client(shm_server.endpoint, shm_bytes=SHM_BYTES) as client, ExitStack() as others:
        settled(client, request)
        segments = [create_segment(4096) for _ in range(SEGMENTS_MAX)]
        for segment in segments:
            attach(others.enter_context(Peer(shm_server.endpoint)), segment)
        before = reads(client)
        for _ in range(2):
            assert client.predict(**arguments(request)).scores.tolist() == frames_scores(shm_server, request)
        assert reads(client) == before


def test_client_attaches_anew_after_a_restart(tmp_path: Path, model: Model) -> None:
    request = one_hot(model, 4)
    with Client(f"ipc://{tmp_path}/s", shm_bytes=SHM_BYTES, timeout_s=20.0) as client:
        for _ in range(2):
            (tmp_path / "ready").unlink(missing_ok=True)
            with ServerProcess(tmp_path, "--buckets", "1,8", "--shm") as running:
                settled(client, request)
                before = reads(client)
                client.predict(**arguments(request))
                assert reads(client) == before + 1
                running.process.send_signal(signal.SIGKILL)
                running.ended()


def test_hostile_clients_are_refused_while_a_good_one_is_answered(shm_server: ServerProcess, model: Model) -> None:
    request = one_hot(model, 6)
    right = frames_scores(shm_server, request)
    with (
        Client(shm_server.endpoint, shm_bytes=SHM_BYTES) as good,
        Peer(shm_server.endpoint) as truncating,
        Peer(shm_server.endpoint) as ageing,
        Peer(shm_server.endpoint) as thief,
    ):
        settled(good, request)
        cut, old = create_segment(1 << 16), create_segment(1 << 16)
        path = Path(FOLDER, cut.name)
        descriptor = os.open(path, os.O_RDWR)
        cut_number, old_number = attach(truncating, cut), attach(ageing, old)
        stolen = answer(thief, cut, cut_number, request)
        memory_of(old)[:8] = bytes(8)
        aged = answer(ageing, old, old_number, request)
        loan = cut.write(request, cut_number)
        assert loan is not None
        os.ftruncate(descriptor, 8)
        os.close(descriptor)
        truncating.send_frames([loan.header])
        shortened = truncating.receive()
        for reply in (stolen, aged, shortened):
            assert isinstance(reply, RefusalReply) and reply.refusal.status is Status.INVALID, reply
        assert good.predict(**arguments(request)).scores.tolist() == right


def test_scribbler_gets_scores_or_refusals_and_its_neighbour_the_right_scores(
    shm_server: ServerProcess, model: Model
) -> None:
    request, done = one_hot(model, 8), threading.Event()
    right = frames_scores(shm_server, request)
    with Client(shm_server.endpoint, shm_bytes=SHM_BYTES) as good, Peer(shm_server.endpoint) as peer:
        settled(good, request)
        segment = create_segment(1 << 16)
        number = attach(peer, segment)
        memory = memory_of(segment)

        def scribble() -> None:
            random = np.random.default_rng(1)
            while not done.is_set():
                memory[8:8192] = random.bytes(8184)

        thread = threading.Thread(target=scribble)
        thread.start()
        try:
            for _ in range(50):
                answer(peer, segment, number, request)
                assert good.predict(**arguments(request)).scores.tolist() == right
        finally:
            done.set()
            thread.join()


KILLED = """
import sys, numpy as np
from narsil_client import Client
with np.load(sys.argv[2]) as arrays, Client(sys.argv[1], shm_bytes=1 << 20) as client:
    given = dict(dense=arrays["dense"], ids=arrays["ids"])
    for _ in range(3):
        client.predict(**given)
    while True:
        pending = [client.submit(**given) for _ in range(20)]
        print("in flight", flush=True)
        for each in pending:
            each.result()
"""


def test_client_that_is_killed_leaves_nothing_and_harms_nobody(
    shm_server: ServerProcess, model: Model, tmp_path: Path
) -> None:
    request = one_hot(model, 6)
    assert request.ids is not None
    right = frames_scores(shm_server, request)
    np.savez(tmp_path / "request.npz", dense=request.dense, ids=request.ids)
    with Client(shm_server.endpoint, shm_bytes=SHM_BYTES) as good:
        settled(good, request)
        script = [sys.executable, "-c", KILLED, shm_server.endpoint, str(tmp_path / "request.npz")]
        with subprocess.Popen(script, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None and client.stdout.readline() == b"in flight\n"
            client.kill()
        for _ in range(20):
            assert good.predict(**arguments(request)).scores.tolist() == right
        # An ATTACH sweeps, if the silence has not yet.
        with Peer(shm_server.endpoint) as peer:
            segment = create_segment(4096)
            attach(peer, segment)
            alive = peer.metadata().meta["counters"]["shm"]["segments"]
        assert alive == 2


def test_no_lock_is_left_to_a_name_and_no_name_to_a_segment(shm_server: ServerProcess, model: Model) -> None:
    with Peer(shm_server.endpoint) as peer:
        segment = create_segment(4096)
        with open(Path(FOLDER, segment.name), "rb") as file:
            attach(peer, segment)
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            os.stat(Path(FOLDER, segment.name))
            raise AssertionError("the name is still there")

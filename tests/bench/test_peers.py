import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.against_sides import Block, Measured
from benchmarks.peers import process
from benchmarks.peers.roster import ROSTER
from benchmarks.peers.wire import decode_reply, decode_request, encode_reply, encode_request
from narsil_graph.bench.log import Log
from narsil_graph.bench.subject import OK, TIMEOUT, Done
from narsil_graph.errors import Failure, UsageFailure

DENSE = np.arange(6, dtype=np.float32).reshape(2, 3)
IDS = np.arange(8, dtype=np.int32).reshape(2, 4)
BODY = encode_request(DENSE, IDS)


@pytest.fixture
def environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(process, "ENVIRONMENTS", tmp_path)
    return tmp_path


def program(environments: Path, text: str) -> None:
    path = environments / "fake" / "serve"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)


def block(status: str, *, latency_us: int, seconds: float = 1.0) -> Block:
    log = Log()
    log.add(intended_ns=0, sent_ns=0, rows=100, done=Done(0, latency_us * 1000, status))
    log.seconds = seconds
    return Block(log, 0.0)


def test_a_request_s_bytes_come_back_as_its_arrays() -> None:
    dense, ids = decode_request(BODY, 3, 4)
    assert np.array_equal(dense, DENSE) and np.array_equal(ids, IDS)


@pytest.mark.parametrize("body", [BODY[:-1], BODY + b"\0", b""])
def test_a_request_of_another_length_than_it_says_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="rows of 3 dense values and 4 ids"):
        decode_request(body, 3, 4)


def test_scores_come_back_as_they_were() -> None:
    scores = np.array([0.25, 0.5], np.float32)
    assert decode_reply(encode_reply(scores)).tolist() == [0.25, 0.5]


def test_a_peer_runs_from_its_ready_line_to_the_end_of_the_block(environments: Path) -> None:
    program(environments, "echo starting; echo ready 127.0.0.1:7; exec sleep 60")
    with process.running("fake", "serve") as peer:
        assert peer.address == "127.0.0.1:7"
        os.kill(peer.pids[0], 0)
    with pytest.raises(ProcessLookupError):
        os.kill(peer.pids[0], 0)


def test_a_peer_that_ends_before_it_is_ready_is_refused_with_its_words(environments: Path) -> None:
    program(environments, "echo no such model >&2; exit 3")
    with (
        pytest.raises(UsageFailure, match="fake did not become ready: no such model"),
        process.running("fake", "serve"),
    ):
        pass


def test_a_peer_that_is_not_installed_is_refused_with_the_command_that_installs_it(environments: Path) -> None:
    with pytest.raises(UsageFailure, match=r"install\.sh fake"), process.running("fake", "serve"):
        pass


def test_every_peer_has_an_adapter_and_a_case_in_the_installer() -> None:
    folder = Path(process.__file__).parent
    installer = (folder / "install.sh").read_text()
    for entry in ROSTER:
        assert "def start(model: Path)" in (folder / f"{entry.module}.py").read_text()
        assert f"\n    {entry.name})\n" in installer


def test_ratios_are_over_the_first_side_round_by_round() -> None:
    ours = [block(OK, latency_us=200), block(OK, latency_us=400)]
    measured = Measured({"peer": [block(OK, latency_us=100), block(OK, latency_us=200)], "f32": ours})
    assert measured.ratio("f32", "p50 us") == "2.00 [2.00, 2.00]"


def test_a_block_in_which_nothing_was_answered_has_no_latency() -> None:
    with pytest.raises(Failure, match="TIMEOUT"):
        block(TIMEOUT, latency_us=100).value("p50 us")

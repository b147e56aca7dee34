import os
import signal
from pathlib import Path

import numpy as np
import pytest

from benchmarks.against_sides import CHECKED, Block, Measured, Side, error_of
from benchmarks.peers import process
from benchmarks.peers.roster import ROSTER
from benchmarks.peers.wire import decode_reply, decode_request, encode_reply, encode_request
from narsil_graph.bench.log import Log
from narsil_graph.bench.requests import RequestPool
from narsil_graph.bench.subject import OK, TIMEOUT, Done, Rows
from narsil_graph.engine.exact import exact_scores
from narsil_graph.errors import Failure, UsageFailure
from narsil_transport.messages import InferRequest
from tests.engine.tiny import tiny_model

DENSE = np.arange(6, dtype=np.float32).reshape(2, 3)
IDS = np.arange(8, dtype=np.int32).reshape(2, 4)
BODY = encode_request(DENSE, IDS)
MODEL = tiny_model()
POOL = RequestPool.constant(MODEL.spec, 3, seed=0)


class Answering:
    """A subject that computes MODEL, but for `error` in one score of each reply, and answers when it is polled."""

    def __init__(self, *, error: float, short: int = 0) -> None:
        self._error = error
        self._short = short
        self._under_way: list[tuple[int, Rows]] = []
        self.under_way_max = 0

    def submit(self, number: int, rows: Rows) -> bool:
        self._under_way.append((number, rows))
        self.under_way_max = max(self.under_way_max, len(self._under_way))
        return True

    def poll(self, timeout_s: float) -> list[Done]:
        number, rows = self._under_way.pop()
        request = InferRequest(number, "", None, None, rows.dense, rows.ids, None, None)
        scores = exact_scores(MODEL, request)
        scores[0] += self._error
        return [Done(number, 0, OK, scores[self._short :].astype(np.float32))]

    def close(self) -> None:
        self._under_way.clear()


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
        assert f"\n    {entry.environment})\n" in installer


def test_ratios_are_over_the_first_side_round_by_round() -> None:
    ours = [block(OK, latency_us=200), block(OK, latency_us=400)]
    measured = Measured({"peer": [block(OK, latency_us=100), block(OK, latency_us=200)], "f32": ours})
    assert measured.ratio("f32", "p50 us") == "2.00 [2.00, 2.00]"


def test_a_block_in_which_nothing_was_answered_is_a_failure() -> None:
    with pytest.raises(Failure, match="TIMEOUT"):
        block(TIMEOUT, latency_us=100)


def test_what_a_peer_left_running_is_ended_with_it(environments: Path) -> None:
    program(environments, "sleep 60 & echo ready $!; exec sleep 60")
    with process.running("fake", "serve") as peer:
        # Its child is nobody's child from now on.
        os.kill(peer.pids[0], signal.SIGKILL)
    # Ended, though whoever has it now may not have asked how.
    state = Path("/proc", peer.address, "stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_what_a_peer_wrote_for_the_time_being_goes_with_it(environments: Path) -> None:
    program(environments, "touch $TMPDIR/socket; echo ready $TMPDIR; exec sleep 60")
    with process.running("fake", "serve") as peer:
        assert os.listdir(peer.address) == ["socket"]
    assert not Path(peer.address).exists()


@pytest.mark.parametrize("name", ["peer", "f32"])
def test_scores_beyond_rounding_are_not_this_model(name: str) -> None:
    with pytest.raises(Failure, match=f"{name} does not compute this model: a score is wrong by 1e-05"):
        error_of(Side(name, Answering(error=1e-5), ()), MODEL, POOL)


def test_scores_within_rounding_are_told() -> None:
    assert 1e-7 < error_of(Side("peer", Answering(error=2e-7), ()), MODEL, POOL) < 4e-7


def test_bfloat16_may_err_as_bfloat16_does() -> None:
    assert error_of(Side("bf16", Answering(error=1e-3), ()), MODEL, POOL) == pytest.approx(1e-3, rel=1e-2)


def test_scores_are_checked_while_all_are_under_way() -> None:
    subject = Answering(error=0.0)
    error_of(Side("peer", subject, ()), MODEL, POOL)
    assert subject.under_way_max == CHECKED


def test_a_reply_with_too_few_scores_is_a_failure() -> None:
    with pytest.raises(Failure, match="answered 3 rows with 2 scores"):
        error_of(Side("peer", Answering(error=0.0, short=1), ()), MODEL, POOL)

"""A slice of what benchmarks/fuzz.py does at length: no bytes at all make a decoder raise, or a server fail."""

from pathlib import Path

import pytest

from narsil_graph.model.weights import Model
from tests.hostile import fuzz_frames
from tests.hostile.siege import besiege, resident_mib
from tests.serving.peers import Peer
from tests.serving.processes import ServerProcess

CASES, MESSAGES = 20_000, 5000
GROWTH_MIB_MAX = 50


@pytest.mark.parametrize("seed", [1, 2])
def test_no_request_makes_decoder_or_admission_raise(seed: int) -> None:
    outcomes = fuzz_frames.requests(CASES, seed)
    # The mutations must reach the depths: not everything may fail at the door.
    assert outcomes["admitted"] > CASES // 50
    assert outcomes["decoded, then refused OUT_OF_RANGE"] > CASES // 1000
    assert {"ControlRequest", "CancelRequest", "refused INVALID", "refused UNSUPPORTED"} <= outcomes.keys()
    assert outcomes.total() == CASES


def test_no_reply_makes_its_decoder_raise_anything_but_wire_errors() -> None:
    outcomes = fuzz_frames.replies(CASES, seed=1)
    assert {"WireError", "ScoresReply", "RefusalReply", "HealthReply", "MetadataReply"} <= outcomes.keys()
    assert outcomes.total() == CASES


def test_besieged_server_gives_a_good_client_the_same_bits(tmp_path: Path, model: Model) -> None:
    # One bucket, or else scores would depend on who shares their batch.
    with ServerProcess(tmp_path, "--buckets", "64", "--record", tmp_path / "trace") as server:
        before_mib = resident_mib(server.process.pid)
        siege = besiege(server.endpoint, model, messages=MESSAGES, seed=1)
        assert resident_mib(server.process.pid) - before_mib < GROWTH_MIB_MAX
        assert siege.answered > MESSAGES // 2
        assert siege.quantile_ms(1) < 1000
        with Peer(server.endpoint) as peer:
            assert peer.health().inflight == 0
            replies = peer.metadata().meta["counters"]["replies"]
        assert {"OK", "INVALID", "UNSUPPORTED", "OUT_OF_RANGE"} <= replies.keys()
        assert "INTERNAL" not in replies
        assert server.stop() == 0
        assert "Traceback" not in server.log

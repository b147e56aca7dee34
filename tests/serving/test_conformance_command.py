"""`conformance` passes a server that keeps to the protocol, and finds one that does not."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from narsil_client import ServerUnreachable
from narsil_client.conformance import Finding, examine
from narsil_transport.header import pack_header, prelude, unpack_reply_fields
from narsil_transport.messages import Operation
from tests.golden.generate import FRAMES
from tests.serving.liar import Change, Frames, Liar
from tests.serving.processes import ServerProcess, narsil, only_sentence, run_python, usage_error

PATIENCE_S = 0.3


def test_server_passes_every_case(server: ServerProcess, tmp_path: Path) -> None:
    ended = narsil("conformance", server.endpoint, "--json", tmp_path / "table")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    table = json.loads((tmp_path / "table").read_text())
    assert ended.stdout.endswith(f"all {len(table)} cases passed\n")
    assert all(row["passed"] for row in table)
    assert {row["name"] for row in table} >= {"infer_ids_i4", "cancel", "bad_array_bomb", "too_many_rows"}
    assert next(row["got"] for row in table if row["name"] == "infer_bags_i8") == "scores[2]"


def test_command_needs_no_torch(server: ServerProcess) -> None:
    run = f"cli(['conformance', {server.endpoint!r}], standalone_mode=False)"
    ended = run_python("-c", f"import sys\nfrom narsil_graph.cli import cli\n{run}\nassert 'torch' not in sys.modules")
    assert ended.returncode == 0, ended.stderr


# A segment in shared memory is another party that a server must see: these are checked where it is made.
WITH_A_SEGMENT = {"attach", "infer_in_segment", "infer_user_once_in_segment", "bad_segment_generation_before",
                  "bad_segment_beyond_its_end", "attach_where_none_is_offered",
                  "infer_in_segment_where_none_is_offered"}  # fmt: skip


def test_every_golden_request_has_a_case(server: ServerProcess) -> None:
    described = {path.stem: json.loads(path.read_text()) for path in FRAMES.glob("*.json")}
    golden = {name for name, case in described.items() if case["reader"] == "request"}
    assert golden - {finding.name for finding in examine(server.endpoint, timeout_s=5)} == WITH_A_SEGMENT


def replaced(frames: Frames, **fields: object) -> list[Frames]:
    """The reply with these fields of its header."""
    return [[pack_header(frames[0][:4], unpack_reply_fields(frames[0]) | fields), *frames[1:]]]


def scores_only(change: Change) -> Change:
    return lambda frames: change(frames) if frames[0][:4] == prelude(Operation.INFER | 0x80) else [frames]


def failed(server: ServerProcess, change: Change) -> dict[str, Finding]:
    with Liar(server.endpoint, change) as liar:
        findings = list(examine(liar.endpoint, timeout_s=PATIENCE_S))
    return {finding.name: finding for finding in findings if not finding.passed}


def test_reply_that_comes_twice_is_found(server: ServerProcess) -> None:
    found = failed(server, scores_only(lambda frames: [frames, frames]))
    assert found["infer_ids_i4"].got.startswith("scores[2]; then scores[2] under id 9")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda frames: replaced(frames, id=8), "id 8"),
        (lambda frames: replaced(frames, us=[1.0] * 4), "no reply; 'us' wants 5 numbers, got [1.0, 1.0, 1.0, 1.0]"),
        (lambda frames: replaced(frames, w=0), "'w'"),
        (lambda frames: [[frames[0], frames[1][:-4]]], "scores[1]"),
        (lambda frames: [[*frames, b""]], "no reply"),
    ],
    ids=["id", "times", "window", "rows", "frames"],
)
def test_wrong_scores_reply_is_found(server: ServerProcess, change: Change, fault: str) -> None:
    def small(frames: Frames) -> Sequence[Frames]:
        return change(frames) if len(frames[1]) == 8 else [frames]

    assert fault in failed(server, scores_only(small))["infer_ids_i4"].got


def test_scores_that_depend_on_how_they_were_asked_for_are_found(server: ServerProcess) -> None:
    def off(frames: Frames) -> Sequence[Frames]:
        traced = "tp" in unpack_reply_fields(frames[0])
        return [[frames[0], bytes(len(frames[1]))] if traced else frames]

    assert failed(server, scores_only(off))["infer_traced"].got == "scores[2]; other scores than infer_ids_i4"


def test_refusal_of_another_status_is_found(server: ServerProcess) -> None:
    def vague(frames: Frames) -> Sequence[Frames]:
        return replaced(frames, s=12) if frames[0][3] == 0x80 else [frames]

    found = failed(server, vague)
    assert (found["bad_magic"].wanted, found["bad_magic"].got) == ("INVALID", "INTERNAL")
    assert "infer_ids_i4" not in found


def test_failed_cases_are_named_and_fail_the_command(server: ServerProcess) -> None:
    def shifted(frames: Frames) -> Sequence[Frames]:
        return replaced(frames, id=unpack_reply_fields(frames[0])["id"] ^ 1) if frames[0][3] == 0x82 else [frames]

    with Liar(server.endpoint, shifted) as liar:
        ended = narsil("conformance", liar.endpoint, "--timeout", PATIENCE_S)
    assert ended.returncode == 1
    assert "cases failed: infer_ids_i4, " in only_sentence(ended)


@pytest.mark.parametrize("endpoint", ["ipc:///nobody/listens", "nonsense"])
def test_unreachable_server_is_one_sentence(endpoint: str) -> None:
    ended = narsil("conformance", endpoint, "--timeout", "0.2")
    assert ended.returncode == 2
    assert endpoint in only_sentence(ended)


def test_wrong_usage_is_an_error() -> None:
    assert usage_error(narsil("conformance")) == "Missing argument 'ENDPOINT'."


def test_server_that_does_not_describe_its_model_is_not_examined(server: ServerProcess) -> None:
    def vague(frames: Frames) -> Sequence[Frames]:
        return replaced(frames, meta={}) if frames[0][3] == 0x83 else [frames]

    with Liar(server.endpoint, vague) as liar, pytest.raises(Exception, match="does not describe the model"):
        next(examine(liar.endpoint, timeout_s=PATIENCE_S))


def test_silent_server_is_unreachable(server: ServerProcess) -> None:
    with Liar(server.endpoint, lambda frames: []) as liar, pytest.raises(ServerUnreachable, match="nothing came"):
        next(examine(liar.endpoint, timeout_s=PATIENCE_S))

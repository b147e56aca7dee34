"""The golden frames are the contract: what was written once is read the same, and written the same, for ever."""

import json
import re
from pathlib import Path

import pytest

from tests.golden.case import Case
from tests.golden.generate import FRAMES, cases

CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_encoder_still_writes_the_golden_bytes(case: Case) -> None:
    written = [FRAMES / f"{case.name}.{index}.bin" for index in range(len(case.frames))]
    assert [path.read_bytes() for path in written] == list(case.frames)


@pytest.mark.parametrize("path", sorted(FRAMES.glob("*.json")), ids=lambda path: path.stem)
def test_decoder_still_reads_the_golden_bytes(path: Path) -> None:
    golden = json.loads(path.read_text())
    frames = tuple((FRAMES / f"{path.stem}.{index}.bin").read_bytes() for index in range(golden["frames"]))
    segment = bytes.fromhex(golden["segment"]) if "segment" in golden else None
    assert Case(path.stem, golden["reader"], frames, segment).meaning() == golden["meaning"]


def test_no_golden_file_is_without_its_case() -> None:
    names = {f"{case.name}.{index}.bin" for case in CASES for index in range(len(case.frames))}
    names |= {f"{case.name}.json" for case in CASES}
    assert {path.name for path in FRAMES.iterdir()} == names


PRINTED = [
    "infer_ids_i4",
    "infer_user_once",
    "infer_in_segment",
    "cancel",
    "attach",
    "reply_scores",
    "reply_refusal_with_retry",
    "reply_attached_window",
]


@pytest.mark.parametrize("name", PRINTED)
def test_protocol_prints_the_golden_bytes(name: str) -> None:
    text = (Path(__file__).parents[2] / "transport" / "PROTOCOL.md").read_text()
    printed = "".join(re.findall(r"^ *((?:[0-9a-f]{2}(?: {1,2}|$))+)", text, re.MULTILINE)).replace(" ", "")
    case = next(case for case in CASES if case.name == name)
    assert b"".join(case.frames).hex() in printed

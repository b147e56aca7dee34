"""Reading a hostile or damaged archive ends in an import or a refusal, and runs nothing of it."""

import contextlib
import os
import pickle
import sys
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from narsil_graph.model.torchrec import ImportRefused, import_archive
from tests.model.torchrec_archives import Shape, draft


class SystemCall:
    """Pickles as a call of os.system."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> Any:
        return getattr(os, "system"), (self._command,)  # noqa: B009 (type checkers deprecate the name)


ran: list[str] = []


def record_code_execution(event: str, arguments: tuple[object, ...]) -> None:
    # Modules that the standard library imports late are executed too, from files.
    evaluated = event == "exec" and isinstance(code := arguments[0], CodeType) and code.co_filename == "<string>"
    if evaluated or event in ("os.system", "subprocess.Popen", "pickle.find_class"):
        ran.append(event)


sys.addaudithook(record_code_execution)


def hostile_pickles(marker: Path) -> dict[str, bytes]:
    touch = f"touch {marker}"
    call = f"X{chr(len(touch))}\0\0\0{touch}\x85R."
    return {
        "names the global os.system,": f"\x80\x02cos\nsystem\n{call}".encode("latin1"),
        "names the global builtins.eval,": f"\x80\x02cbuiltins\neval\n{call}".encode("latin1"),
        "names the global torch._utils._rebuild_qtensor,": b"\x80\x02ctorch._utils\n_rebuild_qtensor\n)R.",
        f"names the global {os.name}.system,": pickle.dumps(SystemCall(touch), 2),
        "is of pickle protocol 4,": pickle.dumps(SystemCall(touch), 4),
        "holds the operation INST,": f"\x80\x02(X{chr(len(touch))}\0\0\0{touch}ios\nsystem\n.".encode("latin1"),
        "is damaged": b"\x80\x02",
        "describes no module": b"\x80\x02K\x01.",
    }


@pytest.mark.parametrize("reason", hostile_pickles(Path("marker")))
def test_hostile_pickle_is_refused_and_runs_nothing(reason: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = draft(Shape()).write(tmp_path / "ads.pt", data_pkl=hostile_pickles(marker)[reason])
    ran.clear()
    with pytest.raises(ImportRefused) as caught:
        import_archive(path)
    assert reason in str(caught.value)
    assert not marker.exists()
    assert ran == []


def test_code_in_the_archive_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    made = draft(Shape())
    made.forward = f"__import__('os').system('touch {marker}')\n{made.forward}"
    path = made.write(tmp_path / "ads.pt")
    ran.clear()
    assert import_archive(path).spec.name == "ads"
    assert not marker.exists()
    assert ran == []


PICKLED = draft(Shape()).members()["data.pkl"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, len(PICKLED) - 1), byte=st.integers(0, 255))
@example(position=3, byte=92)
def test_pickle_with_any_byte_changed_is_imported_or_refused(position: int, byte: int, tmp_path: Path) -> None:
    damaged = bytearray(PICKLED)
    damaged[position] = byte
    path = draft(Shape()).write(tmp_path / "ads.pt", data_pkl=bytes(damaged))
    with contextlib.suppress(ImportRefused):
        assert import_archive(path).spec.name == "ads"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_file_cut_or_changed_anywhere_is_imported_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    path = draft(Shape()).write(tmp_path / "ads.pt")
    archive = bytearray(path.read_bytes())
    archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(archive[: data.draw(st.sampled_from([len(archive), len(archive) // 2]))])
    with contextlib.suppress(ImportRefused):
        assert import_archive(path).spec.name == "ads"

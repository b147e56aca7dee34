"""`keygen` writes a pair that server and client read, or says in a sentence why not."""

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from narsil_graph.commands.keygen import keygen
from narsil_graph.errors import Failure
from narsil_transport.keys import read_public_key, read_secret_key
from tests.serving.processes import narsil, only_sentence


def test_pair_is_written_and_the_public_key_told(tmp_path: Path) -> None:
    ended = narsil("keygen", "shop", "--out", tmp_path)
    assert ended.returncode == 0, ended.stderr
    public = read_public_key(tmp_path / "shop.key")
    assert read_secret_key(tmp_path / "shop.key_secret")[0] == public
    assert stat.S_IMODE((tmp_path / "shop.key_secret").stat().st_mode) == 0o600
    assert ended.stdout.splitlines() == [
        f"wrote {tmp_path}/shop.key: {public.decode()}",
        f"wrote {tmp_path}/shop.key_secret: show it to nobody",
    ]


def test_secret_is_never_printed(tmp_path: Path) -> None:
    printed = CliRunner().invoke(keygen, ["k", "--out", str(tmp_path)], catch_exceptions=False).output
    assert read_secret_key(tmp_path / "k.key_secret")[1].decode() not in printed


def test_pair_goes_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(keygen, ["k"]).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"k.key", "k.key_secret"}


def test_second_pair_of_a_name_is_refused_in_one_sentence(tmp_path: Path) -> None:
    assert CliRunner().invoke(keygen, ["k", "--out", str(tmp_path)]).exit_code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ended = narsil("keygen", "k", "--out", tmp_path)
    assert (ended.returncode, only_sentence(ended)) == (1, f"cannot write {tmp_path}/k.key_secret: File exists")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["../k", "a/b", ""])
def test_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Failure, match="want a name of letters"):
        CliRunner().invoke(keygen, [name, "--out", str(tmp_path)], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"none/k\.key_secret: No such file or directory"):
        CliRunner().invoke(keygen, ["k", "--out", str(tmp_path / "none")], catch_exceptions=False)

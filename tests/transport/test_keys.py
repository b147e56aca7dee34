"""Key files: what is read, what is refused in one sentence, and that a secret is never open to others."""

import os
import resource
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from narsil_transport.keys import KeyFileError, read_public_key, read_secret_key, write_key_pair

PUBLIC, SECRET = zmq.curve_keypair()
HIGHEST = b"%nSc0" * 8


def key_file(folder: Path, text: bytes, mode: int = 0o600) -> Path:
    path = folder / "k"
    path.write_bytes(text)
    path.chmod(mode)
    return path


def refusal(path: Path) -> str:
    """The one sentence, the same for both kinds of key."""
    with pytest.raises(KeyFileError) as public:
        read_public_key(path)
    with pytest.raises(KeyFileError) as secret:
        read_secret_key(path)
    assert str(public.value) == str(secret.value)
    assert "\n" not in str(public.value)
    return str(public.value)


@contextmanager
def umask(mask: int) -> Generator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_pair_is_read_as_written(tmp_path: Path) -> None:
    public = write_key_pair(tmp_path, "shop-1.eu")
    secret_public, secret = read_secret_key(tmp_path / "shop-1.eu.key_secret")
    assert read_public_key(tmp_path / "shop-1.eu.key") == public == secret_public == zmq.curve_public(secret)
    assert len({path.name for path in tmp_path.iterdir()}) == 2


def test_every_pair_is_new(tmp_path: Path) -> None:
    assert write_key_pair(tmp_path, "a") != write_key_pair(tmp_path, "b")


@pytest.mark.parametrize("text", [b"%b", b"%b\n", b"# comment\n\n%b\r\n", b" # indented\n %b \n# 2026-01-01\n"])
@pytest.mark.parametrize("key", [PUBLIC, HIGHEST])
def test_key_is_the_line_that_is_no_comment(tmp_path: Path, text: bytes, key: bytes) -> None:
    assert read_public_key(key_file(tmp_path, text % key)) == key


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"# comment only\n",
        PUBLIC[:39],
        PUBLIC + b"0",
        PUBLIC + b"\n" + SECRET,
        PUBLIC[:39] + b"~",
        PUBLIC[:39] + b"\xff",
        b"%nSc1" * 8,
        b"0" * 35 + b"#0000",
        b"#comment\n" + PUBLIC,
        PUBLIC + b"\n" + b"# " + b"x" * 5000,
    ],
    ids=[
        "empty",
        "comment",
        "short",
        "long",
        "two",
        "tilde",
        "byte",
        "33 bits",
        "highest group",
        "glued comment",
        "large",
    ],
)
def test_anything_but_one_key_is_refused(tmp_path: Path, text: bytes) -> None:
    path = key_file(tmp_path, text)
    assert refusal(path) == f"{path} holds no CURVE key: want one line of 40 Z85 characters"


def test_refusal_never_shows_what_the_file_holds(tmp_path: Path) -> None:
    assert SECRET[:20].decode() not in refusal(key_file(tmp_path, SECRET[:39]))


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = key_file(tmp_path_factory.getbasetemp(), text)
    try:
        key = read_public_key(path)
    except KeyFileError:
        return
    assert len(key) == 40 and key in text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644])
def test_secret_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path, SECRET, mode)
    with pytest.raises(KeyFileError) as refused:
        read_secret_key(path)
    assert str(refused.value) == f"{path} is open to others than its owner: chmod 600 {path}"


def test_secret_is_judged_by_the_file_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(key_file(tmp_path, SECRET, 0o640))
    with pytest.raises(KeyFileError, match="is open to others"):
        read_secret_key(tmp_path / "link")
    (tmp_path / "k").chmod(0o400)
    assert read_secret_key(tmp_path / "link") == (PUBLIC, SECRET)


def test_public_key_may_be_readable_by_all(tmp_path: Path) -> None:
    assert read_public_key(key_file(tmp_path, PUBLIC, 0o644)) == PUBLIC


def test_missing_file_and_folder_are_one_sentence(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"cannot read {tmp_path}/none: No such file or directory"
    assert refusal(tmp_path) == f"cannot read {tmp_path}: Is a directory"


def test_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe") == f"{tmp_path}/pipe is not a file"


def test_secret_is_closed_to_others_before_its_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def recorded(file: int, *arguments: object) -> object:
        status = os.fstat(file)
        seen.append((stat.S_IMODE(status.st_mode), status.st_size))
        return fdopen(file, "wb")

    fdopen = os.fdopen
    monkeypatch.setattr(os, "fdopen", recorded)
    with umask(0):
        write_key_pair(tmp_path, "k")
    assert seen == [(0o600, 0), (0o644, 0)]
    assert stat.S_IMODE((tmp_path / "k.key_secret").stat().st_mode) == 0o600


@pytest.mark.parametrize("there", ["k.key", "k.key_secret"])
def test_neither_file_is_overwritten_and_no_other_is_left(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(KeyFileError) as refused:
        write_key_pair(tmp_path, "k")
    assert str(refused.value) == f"cannot write {tmp_path}/{there}: File exists"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {there: "mine"}


def test_link_is_not_followed_when_writing(tmp_path: Path) -> None:
    (tmp_path / "k.key_secret").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="File exists"):
        write_key_pair(tmp_path, "k")
    assert not (tmp_path / "elsewhere").exists()


def test_full_disk_leaves_no_file(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        with pytest.raises(KeyFileError) as refused:
            write_key_pair(tmp_path, "k")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(refused.value) == f"cannot write {tmp_path}/k.key_secret: File too large"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "-a", "a b", "a\n", "é", "a\0", "x" * 65])
def test_name_is_a_plain_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match="want a name of letters"):
        write_key_pair(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_libzmq_without_curve_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = key_file(tmp_path, SECRET)
    monkeypatch.setattr(zmq, "has", lambda capability: capability != "curve")  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]
    with pytest.raises(KeyFileError, match="built without CURVE"):
        read_secret_key(path)
    with pytest.raises(KeyFileError, match="built without CURVE"):
        write_key_pair(tmp_path, "other")

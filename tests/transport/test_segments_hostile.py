"""Nothing that a client does to its segment, or asks of others, harms the server that reads it."""

import fcntl
import mmap
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from secrets import token_hex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narsil_transport.messages import AttachRequest, Span
from narsil_transport.segments import FOLDER, Segments
from narsil_transport.status import Refusal
from tests.transport.segment_files import (
    GENERATION,
    REQUEST_BYTES_MAX,
    SIZE,
    A,
    B,
    File,
    Make,
    attached,
    created,
    invalid,
    needs_shared_memory,
    span,
)

pytestmark = needs_shared_memory


@given(
    number=st.integers(0, 2**64 - 1),
    generation=st.integers(0, 2**64 - 1) | st.just(GENERATION),
    offset=st.integers(0, 2**64 - 1) | st.integers(0, SIZE),
    lengths=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, SIZE), max_size=6),
    right=st.booleans(),
)
def test_no_numbers_make_it_raise_or_give_another_length(
    number: int, generation: int, offset: int, lengths: list[int], right: bool
) -> None:
    segments = Segments(REQUEST_BYTES_MAX)
    with created() as file, closing(segments):
        real = attached(segments, file)
        outcome = segments.fetch(A, Span(real if right else number, generation, offset, tuple(lengths)))
        if not isinstance(outcome, Refusal):
            assert [len(tensor) for tensor in outcome] == lengths and 8 <= offset <= SIZE - sum(lengths)


def test_truncated_segment_is_refused(segments: Segments, file: File) -> None:
    number = attached(segments, file)
    os.ftruncate(file.fd, 16)
    assert "has become shorter" in invalid(segments.fetch(A, span(number, 4, 8)))
    os.ftruncate(file.fd, 0)
    assert "no longer has generation" in invalid(segments.fetch(A, span(number)))


def test_what_was_read_does_not_change_with_the_segment(segments: Segments, file: File) -> None:
    number = attached(segments, file)
    file.write(8, b"before")
    tensors = segments.fetch(A, span(number, 6))
    file.write(8, b"after!")
    assert tensors == [b"before"]


def test_generation_taken_back_while_the_tensors_are_read_is_noticed(
    segments: Segments, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, read = attached(segments, file), os.pread

    def scribbled(fd: int, length: int, offset: int) -> bytes:
        data = read(fd, length, offset)
        file.write(0, bytes(8))
        return data

    monkeypatch.setattr(os, "pread", scribbled)
    assert "no longer has generation" in invalid(segments.fetch(A, span(number, 16)))


def test_scribbling_meanwhile_neither_raises_nor_changes_lengths(segments: Segments, file: File) -> None:
    number, done = attached(segments, file), threading.Event()

    def scribble() -> None:
        with mmap.mmap(file.fd, SIZE) as memory:
            while not done.is_set():
                memory[8:SIZE] = os.urandom(SIZE - 8)

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for _ in range(200):
            tensors = segments.fetch(A, span(number, 1024, 1024))
            assert isinstance(tensors, list) and [*map(len, tensors)] == [1024, 1024]
    finally:
        done.set()
        thread.join()


def test_segment_of_another_connection_cannot_be_read(segments: Segments, make: Make) -> None:
    first, second = attached(segments, make(), A), attached(segments, make(), B)
    assert first != second
    assert "is not attached" in invalid(segments.fetch(B, span(first, 1)))
    assert "is not attached" in invalid(segments.fetch(b"stranger", span(first, 1)))
    assert isinstance(segments.fetch(A, span(first, 1)), list)


@pytest.mark.parametrize("name", [".", ".."])
def test_folder_is_no_segment(segments: Segments, name: str) -> None:
    assert "is not a file" in invalid(segments.attach(A, AttachRequest(1, name, SIZE, GENERATION)))


@pytest.mark.parametrize("name", ["", "a/b", "/etc/passwd", "../x", "a\0b", "a\n", "é", "x" * 65])
def test_name_that_is_no_plain_name_cannot_be_asked_for(name: str) -> None:
    with pytest.raises(ValueError, match="a segment's name wants"):
        AttachRequest(1, name, SIZE, GENERATION)


def test_name_of_nothing_is_refused(segments: Segments) -> None:
    assert "cannot be opened: No such file" in invalid(segments.attach(A, AttachRequest(1, "narsil-none", SIZE, 1)))


def test_symbolic_link_is_not_followed(segments: Segments, file: File) -> None:
    link = Path(FOLDER, f"{file.name}-link")
    link.symlink_to(file.path)
    try:
        request = AttachRequest(1, link.name, SIZE, GENERATION)
        assert "cannot be opened" in invalid(segments.attach(A, request))
    finally:
        link.unlink()


def test_pipe_neither_blocks_nor_is_attached(segments: Segments) -> None:
    path = Path(FOLDER, f"narsil-test-{token_hex(8)}")
    os.mkfifo(path, 0o600)
    try:
        assert "is not a file" in invalid(segments.attach(A, AttachRequest(1, path.name, SIZE, GENERATION)))
    finally:
        path.unlink()


def test_lease_on_the_file_does_not_make_the_server_wait(segments: Segments, file: File) -> None:
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # what the holder of a lease is sent
    try:
        fcntl.fcntl(file.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        assert "cannot be opened" in invalid(segments.attach(A, file.request()))
    finally:
        signal.signal(signal.SIGIO, before)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_file_that_others_may_open_is_refused(segments: Segments, file: File, mode: int) -> None:
    os.fchmod(file.fd, mode)
    assert "open to others" in invalid(segments.attach(A, file.request()))


def test_file_of_another_user_is_refused(segments: Segments, file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "belongs to another user" in invalid(segments.attach(A, file.request()))


def test_segment_of_a_client_that_was_killed_is_readable_until_swept(segments: Segments) -> None:
    name = f"narsil-test-{token_hex(8)}"
    script = (
        "import fcntl, os, sys\n"
        f"fd = os.open('{FOLDER}/{name}', os.O_RDWR | os.O_CREAT, 0o600)\n"
        "fcntl.flock(fd, fcntl.LOCK_EX)\n"
        f"os.ftruncate(fd, {SIZE})\n"
        f"os.pwrite(fd, ({GENERATION}).to_bytes(8, 'little') + b'last', 0)\n"
        "print('made', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None and client.stdout.readline() == b"made\n"
        number = segments.attach(A, AttachRequest(1, name, SIZE, GENERATION))
        os.unlink(f"{FOLDER}/{name}")
        client.kill()
        client.wait()
    assert isinstance(number, int)
    assert segments.fetch(A, span(number, 4)) == [b"last"]
    segments.sweep()
    assert len(segments) == 0


def test_segment_without_a_lock_is_refused(segments: Segments, file: File) -> None:
    fcntl.flock(file.fd, fcntl.LOCK_UN)
    assert "is not locked" in invalid(segments.attach(A, file.request()))

"""A server reads exactly what a client's segment holds, and keeps no more of them than it says."""

import pytest

from narsil_transport.segments import SEGMENTS_MAX, Segments
from narsil_transport.status import Refusal, Status
from tests.transport.segment_files import (
    REQUEST_BYTES_MAX,
    SIZE,
    A,
    B,
    File,
    Make,
    attached,
    descriptors,
    invalid,
    needs_shared_memory,
    span,
)

pytestmark = needs_shared_memory


def test_tensors_are_read_back_to_back(segments: Segments, file: File) -> None:
    file.write(100, b"denseids")
    assert segments.fetch(A, span(attached(segments, file), 5, 0, 3, offset=100)) == [b"dense", b"", b"ids"]


def test_segment_is_read_after_its_name_is_gone(segments: Segments, file: File) -> None:
    number = attached(segments, file)
    file.path.unlink()
    file.write(8, b"x")
    assert segments.fetch(A, span(number, 1)) == [b"x"]


def test_whole_segment_may_be_used_and_not_a_byte_more(segments: Segments, file: File) -> None:
    number = attached(segments, file)
    assert isinstance(segments.fetch(A, span(number, REQUEST_BYTES_MAX, offset=SIZE - REQUEST_BYTES_MAX)), list)
    assert "are not in segment" in invalid(
        segments.fetch(A, span(number, REQUEST_BYTES_MAX, offset=SIZE - REQUEST_BYTES_MAX + 1))
    )


def test_no_more_than_was_named_is_used_of_a_larger_file(segments: Segments, file: File) -> None:
    number = segments.attach(A, file.request(size_bytes=100))
    assert isinstance(number, int)
    assert "are not in segment" in invalid(segments.fetch(A, span(number, 93)))


@pytest.mark.parametrize("offset", [0, 7, SIZE, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1])
def test_offset_outside_is_refused(segments: Segments, file: File, offset: int) -> None:
    assert "are not in segment" in invalid(segments.fetch(A, span(attached(segments, file), 16, offset=offset)))


@pytest.mark.parametrize("lengths", [(REQUEST_BYTES_MAX + 1,), (REQUEST_BYTES_MAX, 1), (2**63, 2**63), (2**200,)])
def test_more_than_one_request_may_have_is_too_large(segments: Segments, file: File, lengths: tuple[int, ...]) -> None:
    outcome = segments.fetch(A, span(attached(segments, file), *lengths))
    assert isinstance(outcome, Refusal) and outcome.status is Status.TOO_LARGE


def test_wrong_generation_is_refused(segments: Segments, file: File) -> None:
    assert "does not begin with generation 78" in invalid(segments.attach(A, file.request(generation=78)))
    number = attached(segments, file)
    assert "of generation 78 is not attached" in invalid(segments.fetch(A, span(number, 1, generation=78)))


@pytest.mark.parametrize("size_bytes", [1, 8, SIZE + 1, 2**64 - 1])
def test_size_that_the_file_does_not_have_is_refused(segments: Segments, file: File, size_bytes: int) -> None:
    assert "cannot be used" in invalid(segments.attach(A, file.request(size_bytes=size_bytes)))


def test_refused_segment_leaves_the_one_before_and_no_descriptor(segments: Segments, make: Make) -> None:
    number, other = attached(segments, make()), make()
    before = descriptors()
    invalid(segments.attach(A, other.request(generation=1)))
    assert descriptors() == before
    assert isinstance(segments.fetch(A, span(number, 1)), list)


def test_new_segment_takes_the_place_of_the_one_before(segments: Segments, make: Make) -> None:
    old, before = attached(segments, make()), descriptors()
    new = attached(segments, make())
    assert (len(segments), descriptors()) == (1, before + 1)  # the file that was made
    assert "is not attached" in invalid(segments.fetch(A, span(old, 1)))
    assert isinstance(segments.fetch(A, span(new, 1)), list)


def test_size_zero_detaches(segments: Segments, file: File) -> None:
    number, before = attached(segments, file), descriptors()
    assert segments.attach(A, file.request(size_bytes=0)) == 0
    assert descriptors() == before - 1
    assert "is not attached" in invalid(segments.fetch(A, span(number, 1)))
    assert segments.attach(A, file.request(size_bytes=0)) == 0


def test_beyond_the_most_the_least_recently_used_goes(segments: Segments, make: Make) -> None:
    peers = [bytes((index,)) for index in range(SEGMENTS_MAX)]
    numbers = [attached(segments, make(), peer) for peer in peers]
    assert isinstance(segments.fetch(peers[0], span(numbers[0], 1)), list)
    attached(segments, make(), b"one more")
    assert len(segments) == SEGMENTS_MAX
    assert isinstance(segments.fetch(peers[0], span(numbers[0], 1)), list)
    assert "is not attached" in invalid(segments.fetch(peers[1], span(numbers[1], 1)))


def test_numbers_are_not_used_again(segments: Segments, make: Make) -> None:
    first = attached(segments, make())
    segments.forget(A)
    assert attached(segments, make()) != first


def test_segment_of_a_dead_client_is_swept_and_that_of_a_living_one_stays(segments: Segments, make: Make) -> None:
    dead, alive = make(), make()
    attached(segments, dead, A)
    number = attached(segments, alive, B)
    before = descriptors()
    dead.close()
    segments.sweep()
    assert (len(segments), descriptors()) == (1, before - 2)
    segments.sweep()
    assert isinstance(segments.fetch(B, span(number, 1)), list)


def test_the_dead_make_room_before_the_living_do(segments: Segments, make: Make) -> None:
    files = [make() for _ in range(SEGMENTS_MAX)]
    numbers = [attached(segments, file, bytes((index,))) for index, file in enumerate(files)]
    files[-1].close()
    attached(segments, make(), b"one more")
    assert isinstance(segments.fetch(b"\0", span(numbers[0], 1)), list)


def test_close_leaves_no_descriptor(make: Make) -> None:
    segments, files = Segments(REQUEST_BYTES_MAX), [make(), make()]
    before = descriptors()
    for index, file in enumerate(files):
        attached(segments, file, bytes((index,)))
    segments.close()
    assert (len(segments), descriptors()) == (0, before)

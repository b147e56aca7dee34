"""Hostile messages without end: the golden frames, injured bit by bit and field by field, and maps made of nothing."""

import functools
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgpack

from narsil_transport.header import PRELUDE_BYTES
from tests.golden.generate import FRAMES

Frames = list[bytes]
Injury = Callable[[Random, Frames], Frames]

KEYS = ("id", "t", "m", "d", "p", "tp", "u", "x", "s", "v", "b", "f", "us", "w", "e", "retry", "eta", "meta", "state",
        "inflight", "uptime_s", "name", "bytes", "gen", "seg")  # fmt: skip
NAMES = ("dense", "ids", "lengths", "values", "user_dense", "user_ids", "user_lengths", "user_values", "scores", "")
DTYPES = ("f4", "i4", "i8", "f8", "O", "|S1", "")
# Where sizes and signs turn over.
INTEGERS = tuple(
    sign * (1 << power) + step
    for power in (0, 1, 3, 7, 8, 15, 16, 31, 32, 62, 63)
    for sign in (1, -1)
    for step in (-1, 0)
)
# Prefixes of msgpack that claim a length, and the longest claim of each.
CLAIMS = (b"\x8f", b"\x9f", b"\xbf", b"\xc4\xff", b"\xc5\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc7\xff\x01",
          b"\xc9\xff\xff\xff\xff\x01", b"\xd9\xff", b"\xda\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xdc\xff\xff",
          b"\xdd\xff\xff\xff\xff", b"\xde\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdd\x00\x00\x00\x10",
          b"\xc1", b"\xca\x7f\xc0\x00\x00", b"\xcb\x7f\xf8" + bytes(6), b"\xd6\xff\xff\xff\xff\xff")  # fmt: skip
FLOATS = (0.0, -0.0, 1.5, -1.0, 1e308, float("inf"), float("nan"))


@functools.cache
def golden(reader: str) -> tuple[tuple[bytes, ...], ...]:
    """The golden messages that this reader ("request": the server, "reply": the client) may get, good ones often."""
    found: list[tuple[bytes, ...]] = []
    for path in sorted(FRAMES.glob("*.json")):
        described = json.loads(path.read_text())
        if described["reader"] == reader:
            numbers = range(described["frames"])
            frames = tuple(path.with_suffix(f".{number}.bin").read_bytes() for number in numbers)
            # What is refused anyway leads nowhere deep.
            found += [frames] * (1 if path.stem.startswith("bad_") else 4)
    assert found
    return tuple(found)


class Mutator:
    """Messages made of these seeds; the same seeds and random numbers give the same messages."""

    def __init__(self, seeds: Sequence[Sequence[bytes]], random: Random) -> None:
        self._seeds = [list(seed) for seed in seeds]
        self._random = random

    def message(self) -> Frames:
        """One message of any number of frames, even none."""
        random = self._random
        frames = list(random.choice(self._seeds))
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            frames = random.choice(INJURIES)(random, frames)
        if random.random() < 0.1:
            frames = splice(random, frames, random.choice(self._seeds))
        return frames


def at(random: Random, frames: Frames) -> int:
    """A frame's place, the header's in half of all cases."""
    return 0 if random.random() < 0.5 else random.randrange(len(frames))


def changed(frames: Frames, index: int, frame: bytes) -> Frames:
    return [*frames[:index], frame, *frames[index + 1 :]]


def flip(random: Random, frames: Frames) -> Frames:
    if not frames or not frames[index := at(random, frames)]:
        return frames
    frame = bytearray(frames[index])
    for _ in range(random.choice((1, 1, 4))):
        frame[random.randrange(len(frame))] ^= 1 << random.randrange(8)
    return changed(frames, index, bytes(frame))


def overwrite(random: Random, frames: Frames) -> Frames:
    """An integer at a turning point, in any width and order of bytes, over whatever is there."""
    if not frames or not frames[index := at(random, frames)]:
        return frames
    size = random.choice((1, 2, 4, 8))
    integer = random.choice(INTEGERS) & ((1 << 8 * size) - 1)
    frame = frames[index]
    begin = random.randrange(len(frame))
    packed = integer.to_bytes(size, random.choice(("little", "big")))
    return changed(frames, index, frame[:begin] + packed + frame[begin + size :])


def claim(random: Random, frames: Frames) -> Frames:
    """A length that is not there, in the header."""
    if not frames:
        return frames
    header = frames[0]
    begin = random.randrange(len(header) + 1)
    return changed(frames, 0, header[:begin] + random.choice(CLAIMS) + header[begin + random.randrange(3) :])


def truncate(random: Random, frames: Frames) -> Frames:
    if not frames:
        return frames
    index = at(random, frames)
    return changed(frames, index, frames[index][: random.randrange(len(frames[index]) + 1)])


def extend(random: Random, frames: Frames) -> Frames:
    if not frames:
        return frames
    index = at(random, frames)
    more = random.choice((random.randbytes(random.randrange(64)), b"\0" * random.randrange(300), b"\x91" * 4500))
    return changed(frames, index, frames[index] + more)


def recount(random: Random, frames: Frames) -> Frames:
    """Frames lost, doubled, made up or in another order."""
    frames = list(frames)
    place = random.randrange(len(frames) + 1)
    match random.randrange(5):
        case 0:
            del frames[place:]
        case 1:
            frames[place:place] = frames
        case 2:
            frames.insert(place, random.randbytes(random.randrange(40)))
        case 3:
            frames[place:place] = [b""] * random.randrange(12)
        case _:
            random.shuffle(frames)
    return frames


def splice(random: Random, frames: Frames, others: Frames) -> Frames:
    """The beginning of one message with the end of another, cut inside a header or between frames."""
    if frames and others and random.random() < 0.5:
        cut, resume = random.randrange(len(frames[0]) + 1), random.randrange(len(others[0]) + 1)
        return [frames[0][:cut] + others[0][resume:], *others[1:]]
    return [*frames[: random.randrange(len(frames) + 1)], *others[random.randrange(len(others) + 1) :]]


def value(random: Random, depth: int = 0) -> Any:
    """Anything that msgpack can say, seldom what is wanted."""
    match random.randrange(12 if depth < 3 else 8):
        case 0 | 1:
            return random.choice(INTEGERS) % (1 << 64) if random.random() < 0.8 else -random.randrange(1 << 63)
        case 2:
            return random.choice(FLOATS)
        case 3:
            return random.choice((True, False, None))
        case 4:
            return random.choice((*NAMES, *DTYPES, *KEYS, "x" * 70))
        case 5:
            return random.randbytes(random.randrange(6))
        case 6 | 7:
            return random.randrange(12)
        case 8:
            return {random.choice(KEYS): value(random, depth + 1) for _ in range(random.randrange(4))}
        case 9:
            return [
                random.choice(NAMES),
                random.choice(DTYPES),
                [random.randrange(5) for _ in range(random.randrange(4))],
            ]
        case _:
            return [value(random, depth + 1) for _ in range(random.choice((0, 1, 2, 3, 5, 16, 17)))]


def refill(random: Random, frames: Frames) -> Frames:
    """The header's map with a field changed, lost or added; one that cannot be read becomes a map of anything."""
    if not frames:
        return frames
    start, body = frames[0][:PRELUDE_BYTES], frames[0][PRELUDE_BYTES:]
    try:
        fields = msgpack.unpackb(body)
    except ValueError:
        fields = None
    if type(fields) is not dict:
        fields = {random.choice(KEYS): value(random) for _ in range(random.randrange(6))}
    key = random.choice((*fields, random.choice(KEYS)))
    if random.random() < 0.15:
        fields.pop(key, None)
    elif type(fields.get(key)) is list and fields[key] and random.random() < 0.8:
        fields[key] = inside(random, fields[key])
    else:
        fields[key] = value(random)
    return changed(frames, 0, start + msgpack.packb(fields))


def inside(random: Random, items: list[Any]) -> list[Any]:
    """The list with one thing in it changed, however deep: a dtype, a dimension, a name, a time."""
    place = random.randrange(len(items))
    item = items[place]
    deeper = type(item) is list and item and random.random() < 0.8
    return [*items[:place], inside(random, item) if deeper else value(random, 1), *items[place + 1 :]]


def noise(random: Random, frames: Frames) -> Frames:
    """A good prelude, then nothing that is meant."""
    start = frames[0][:PRELUDE_BYTES] if frames else b"NG\x01\x01"
    return [start + random.randbytes(random.randrange(80)), *frames[1:]]


INJURIES: tuple[Injury, ...] = (flip, flip, overwrite, claim, truncate, extend, recount, refill, refill, refill, noise)

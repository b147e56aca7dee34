"""A closed loop: so many requests always in flight from one process, with little Python in between."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import SEED
from narsil_client.dealer import connect
from narsil_graph.engine.synthetic import one_hot_request
from narsil_graph.model.spec import ModelSpec
from narsil_transport.messages import ScoresReply
from narsil_transport.wire import decode_reply, encode_request

# Different requests per place in flight, so that a lookup's rows are not in the cache already.
REQUESTS_IN_ALL = 64
REPLY_WAIT_MS = 10_000

Message = list[bytes]


@dataclass(slots=True)
class Load:
    """What came back: per request its round trip and, unless an echo answered, its share of the server's times."""

    rows: int
    seconds: float = 0.0
    round_trip_us: list[float] = field(default_factory=list)
    launch_us: list[float] = field(default_factory=list)
    server_us: list[float] = field(default_factory=list)

    @property
    def requests_per_s(self) -> float:
        return len(self.round_trip_us) / self.seconds

    @property
    def samples_per_s(self) -> float:
        return self.requests_per_s * self.rows

    def round_trip(self, quantile: float) -> float:
        return float(np.quantile(self.round_trip_us, quantile))

    def beyond_launch_us(self) -> NDArray[np.float64]:
        """Per request: the round trip less the launch that its reply reports."""
        return np.subtract(self.round_trip_us, self.launch_us, dtype=np.float64)


def messages(spec: ModelSpec, *, rows: int, in_flight: int) -> list[list[Message]]:
    """Encoded requests for each place in flight; a request's id is its place plus one."""
    rng = np.random.default_rng(SEED)
    found: list[list[Message]] = [[] for _ in range(in_flight)]
    for number in range(max(REQUESTS_IN_ALL, in_flight)):
        request = one_hot_request(spec, rows, rng)
        request.request_id = number % in_flight + 1
        found[number % in_flight].append(encode_request(request))
    return found


def closed_loop(
    endpoints: Sequence[str], places: Sequence[Sequence[Message]], *, rows: int, seconds: float, echo: bool = False
) -> Load:
    """Keep every place in flight for ``seconds``, after a warm-up of a fifth. Of an ``echo`` only the launch is read.

    Times run from before the first frame is sent to after the last is received: decoding a reply is not in them.
    Raises RuntimeError on a refusal or a silent server.
    """
    dealer = connect(endpoints, inflight_max=len(places), context=None)
    load = Load(rows)
    sent_ns = [0] * len(places)
    turn = 0

    def send(place: int) -> None:
        nonlocal turn
        turn += 1
        message = places[place][turn % len(places[place])]
        sent_ns[place] = time.perf_counter_ns()
        while not dealer.send(message):
            dealer.wait_writable(REPLY_WAIT_MS)

    for place in range(len(places)):
        send(place)
    begin_ns = time.perf_counter_ns() + int(seconds * 2e8)
    end_ns = begin_ns + int(seconds * 1e9)
    now_ns = 0
    while now_ns < end_ns:
        frames = dealer.receive(REPLY_WAIT_MS)
        now_ns = time.perf_counter_ns()
        if frames is None:
            raise RuntimeError(f"no reply in {REPLY_WAIT_MS} ms from {', '.join(endpoints)}")
        place = 0
        if echo and now_ns >= begin_ns:
            # Its first eight bytes, little-endian: the nanoseconds of a launch if it made one, or zero.
            load.launch_us.append(int.from_bytes(frames[0][:8], "little") / 1e3)
        if not echo:
            reply = decode_reply(frames)
            if not isinstance(reply, ScoresReply):
                raise RuntimeError(f"refused: {reply}")
            place = reply.request_id - 1
            if now_ns >= begin_ns:
                load.launch_us.append(reply.times.launch_us)
                load.server_us.append(reply.times.server_us)
        if now_ns >= begin_ns:
            load.round_trip_us.append((now_ns - sent_ns[place]) / 1e3)
        send(place)
    load.seconds = (now_ns - begin_ns) / 1e9
    dealer.close()
    return load


def pooled(loads: Sequence[Load]) -> Load:
    """Several rounds of the same load as one."""
    whole = Load(loads[0].rows)
    for load in loads:
        whole.seconds += load.seconds
        whole.round_trip_us += load.round_trip_us
        whole.launch_us += load.launch_us
        whole.server_us += load.server_us
    return whole

"""Enemies of a running server, several at once, and a good client among them whose scores must not change by a bit."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import numpy as np
import zmq

from narsil_graph.model.weights import Model
from narsil_transport.messages import UserPart
from narsil_transport.wire import ControlRequest, InferRequest, Operation, Priority, encode_cancel, encode_request
from tests.hostile.mutation import Mutator
from tests.serving.peers import Peer, assert_right, multi_hot, one_hot

# How often the good client asks.
MESSAGES_PER_QUESTION = 25
# Of this many messages one has a frame that is too large, and one connection is dropped and made anew.
OVERSIZED_EVERY, CHURN_EVERY = 5000, 40
# Above what any server in these tests receives in one frame.
OVERSIZED_BYTES = 1 << 25


def seeds(model: Model) -> list[list[bytes]]:
    """Messages that the server takes, small ones, for a mutator to injure."""
    one, many = one_hot(model, 3), multi_hot(model, 2)
    requests = [one, many, replace(one, priority=Priority.BULK), user_once(model)]
    named = replace(multi_hot(model, 5), model=model.spec.name, deadline_us=100_000, traceparent="0")
    controls = [ControlRequest(5, Operation.HEALTH), ControlRequest(6, Operation.METADATA)]
    return [
        *(encode_request(request) for request in [*requests, named]),
        *(encode_request(question) for question in controls),
        [encode_cancel(0)],
        [b"", *encode_request(one)],
    ]


def user_once(model: Model) -> InferRequest:
    """Three rows whose even columns and features came once."""
    plain = one_hot(model, 3)
    assert plain.ids is not None
    columns = np.arange(plain.dense.shape[1]) % 2 == 0
    features = np.arange(plain.ids.shape[1]) % 2 == 0
    user = UserPart(columns, features, plain.dense[0, columns], plain.ids[0, features])
    return replace(plain, dense=plain.dense[:, ~columns], ids=plain.ids[:, ~features], user=user)


class GoodClient:
    """Asks the same questions again and again; each answer must have the bits of the first one."""

    def __init__(self, endpoint: str, model: Model) -> None:
        self._peer = Peer(endpoint)
        self._requests = [one_hot(model, 6), multi_hot(model, 6), user_once(model)]
        self._expected = [self._peer.scores(request) for request in self._requests]
        for request, scores in zip(self._requests[:2], self._expected, strict=False):
            assert_right(scores, model, request)
        self.latencies_ms: list[float] = []

    @property
    def slowest_ms(self) -> float:
        return max(self.latencies_ms)

    def ask(self) -> None:
        which = len(self.latencies_ms) % len(self._requests)
        begin = time.perf_counter()
        scores = self._peer.scores(self._requests[which])
        self.latencies_ms.append((time.perf_counter() - begin) * 1e3)
        assert scores.tobytes() == self._expected[which].tobytes(), "the scores have changed"

    def close(self) -> None:
        self._peer.close()


@dataclass(slots=True)
class Siege:
    """What was sent, by kind of enemy, what came back, and how the good client fared."""

    sent: Counter[str] = field(default_factory=Counter[str])
    answered: int = 0
    latencies_ms: list[float] = field(default_factory=list[float])

    def quantile_ms(self, of_all: float) -> float:
        return float(np.quantile(self.latencies_ms, of_all))


class Enemies:
    """One peer that never reads, some that send injured messages, and one that comes and goes."""

    def __init__(self, endpoint: str, random: Random, messages: Sequence[Sequence[bytes]]) -> None:
        self._endpoint = endpoint
        self._random = random
        self._oversized = bytes(OVERSIZED_BYTES)
        self._mutator = Mutator(messages, random)
        self._context = zmq.Context()
        self._injurers = [self._connection() for _ in range(4)]
        self._deaf = self._connection()
        self._deaf.rcvhwm = 1
        self._passing = self._connection()

    def close(self) -> None:
        self._context.destroy(linger=0)

    def strike(self, number: int, siege: Siege) -> None:
        """Message `number` of the siege, by whoever's turn it is."""
        random = self._random
        if number % OVERSIZED_EVERY == OVERSIZED_EVERY // 2:
            self._send(random.choice(self._injurers), [b"x", self._oversized], "oversized", siege)
        elif number % CHURN_EVERY == 0:
            self._passing.close(linger=0)
            self._passing = self._connection()
            self._send(self._passing, self._mutator.message(), "passing", siege)
        elif number % 20 == 1:
            self._send(self._deaf, self._mutator.message(), "deaf", siege)
        elif number % 10 == 2:
            parts = [random.randbytes(random.randrange(3)) for _ in range(random.choice((1, 2, 9, 50, 400)))]
            self._send(random.choice(self._injurers), parts, "parts", siege)
        else:
            self._send(random.choice((*self._injurers, self._passing)), self._mutator.message(), "injured", siege)

    def read(self) -> int:
        """Take what has come to those who read; how many messages."""
        taken = 0
        for socket in self._injurers:
            while socket.poll(0):
                socket.recv_multipart()
                taken += 1
        return taken

    def _send(self, socket: zmq.SyncSocket, frames: Sequence[bytes], kind: str, siege: Siege) -> None:
        try:
            socket.send_multipart(frames or [b""], zmq.NOBLOCK)
        except zmq.Again:
            # Its pipe is full, as is meant to be: the server no longer reads from it, or it was cut just now.
            kind = f"{kind}, not taken"
        siege.sent[kind] += 1

    def _connection(self) -> zmq.SyncSocket:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(self._endpoint)
        return socket


def besiege(endpoint: str, model: Model, *, messages: int, seed: int) -> Siege:
    """Until so many hostile messages were taken by libzmq. An AssertionError says what the good client noticed."""
    siege = Siege()
    good = GoodClient(endpoint, model)
    enemies = Enemies(endpoint, Random(seed), seeds(model))
    try:
        number = 0
        while sum(count for kind, count in siege.sent.items() if "not taken" not in kind) < messages:
            for _ in range(MESSAGES_PER_QUESTION):
                number += 1
                enemies.strike(number, siege)
            good.ask()
            siege.answered += enemies.read()
    finally:
        enemies.close()
        siege.latencies_ms = good.latencies_ms
        good.close()
    return siege


def resident_mib(pid: int) -> float:
    """The resident set of a process, MiB."""
    lines = Path("/proc", str(pid), "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

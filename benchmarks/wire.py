"""What the wire costs: around a forward, with CURVE, through shared memory, and user features sent once.

python benchmarks/wire.py [--load build/release/load/narsil-load]
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import zmq

from benchmarks import machine
from benchmarks.load import Message, closed_loop, messages
from benchmarks.machine import ROOT, SEED, interval, ratio_text
from benchmarks.processes import Process, Served, pinned, two_cpus
from benchmarks.small_model import save_small
from narsil_client import Client
from narsil_graph.engine.synthetic import one_hot_request
from narsil_graph.model.spec import ModelSpec
from narsil_graph.model.weights import load_model
from narsil_transport.messages import InferRequest, UserPart
from narsil_transport.wire import encode_request

ROWS = 100
PEERS = ROOT / "benchmarks" / "peers"
# As a reply to 100 rows has.
ECHO_BYTES = ("82", "400", "0")
CURVE_BYTES = (256, 16_384, 131_072)
PAYLOAD_BYTES = (16_384, 65_536, 262_144, 1_048_576)
BARE = "the same, with the forward in it"
Us = list[float]


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--load", type=Path, help="the narsil-load binary; without it there is no C++ row")
    options = parser.parse_args()
    report = machine.Report(f"the wire: {ROWS}-row requests over ipc, server and client on a core each")
    spec = load_model(machine.made(options.model)).spec
    rounds, seconds = (2, 0.2) if options.quick else (7, 1.0)
    with tempfile.TemporaryDirectory(prefix="narsil-") as folder:
        load, small = options.load, save_small(spec, Path(folder) / "small")
        for title, model in (("the reference model", options.model), ("a model that launches next to nothing", small)):
            report.table(f"round trip, one in flight: {title}", round_trips(model, load, spec, folder, rounds, seconds))
        curve(report, rounds, seconds)
        shared_memory(report, spec, folder, rounds, seconds)
    report.table("bytes of a request of 100 rows, one id per feature (int32)", user_once())
    report.write(options.json)


def round_trips(
    model: Path, load: Path | None, spec: ModelSpec, folder: str, rounds: int, seconds: float
) -> list[dict[str, object]]:
    """One request in flight: bare echoes, and the server by raw frames, by the Python client and by the C++ one.

    The echo that launches the same forward leaves the server's caches, and its client asleep, as the server does.
    """
    server_cpu, client_cpu = two_cpus()
    bind, echo = f"ipc://{folder}/served", f"ipc://{folder}/echo"
    places = messages(spec, rows=ROWS, in_flight=1)
    found: dict[str, list[tuple[float, float]]] = {}
    launching = f"ipc://{folder}/launching"
    echo_command = [sys.executable, str(PEERS / "zmq_echo.py"), echo, *ECHO_BYTES]
    launch_command = [sys.executable, str(PEERS / "forward_echo.py"), launching, str(model), str(ROWS)]
    with (
        Served(model, bind, cpu=server_cpu),
        Process(echo_command, cpu=server_cpu),
        Process(launch_command, cpu=server_cpu),
        pinned(client_cpu),
    ):
        sides: dict[str, Callable[[], tuple[float, float]]] = {
            "bare ROUTER and DEALER": lambda: _by_hand(echo, places, seconds, echo=True),
            BARE: lambda: _by_hand(launching, places, seconds, echo=True),
            "server, frames by hand": lambda: _by_hand(bind, places, seconds),
            "server, Python client": lambda: _by_python(bind, spec, seconds),
        }
        if load is not None:
            sides["server, C++ client"] = lambda: _by_cpp(load, bind, seconds)
        for _ in range(rounds):
            for name, measured in sides.items():
                found.setdefault(name, []).append(measured())
    bare = [outside for _, outside in found[BARE]]
    python = [whole for whole, _ in found["server, Python client"]]
    rows: list[dict[str, object]] = []
    for name, each in found.items():
        whole, outside = [a for a, _ in each], [b for _, b in each]
        middle, low, high = interval(outside)
        rows.append(
            {
                "side": name,
                "p50 us": float(np.median(whole)),
                "outside the launch p50 us": f"{middle:.0f} [{low:.0f}, {high:.0f}]",
                "that less the launching echo's us": float(np.median(np.subtract(outside, bare))),
                "p50 / Python client's": ratio_text(whole, python),
            }
        )
    return rows


def _by_hand(
    bind: str, places: Sequence[Sequence[Message]], seconds: float, *, echo: bool = False
) -> tuple[float, float]:
    load = closed_loop([bind], places, rows=ROWS, seconds=seconds, echo=echo)
    return load.round_trip(0.5), float(np.median(load.beyond_launch_us()))


def _by_python(bind: str, spec: ModelSpec, seconds: float) -> tuple[float, float]:
    rng = np.random.default_rng(SEED)
    requests = [one_hot_request(spec, ROWS, rng) for _ in range(64)]
    whole_us, outside_us = Us(), Us()
    with Client(bind) as client:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            request = requests[len(whole_us) % 64]
            begin_ns = time.perf_counter_ns()
            scores = client.predict(dense=request.dense, ids=request.ids)
            whole_us.append((time.perf_counter_ns() - begin_ns) / 1e3)
            outside_us.append(whole_us[-1] - scores.times.launch_us)
    return float(np.median(whole_us)), float(np.median(outside_us))


def _by_cpp(load: Path, bind: str, seconds: float) -> tuple[float, float]:
    command = [str(load), bind, "--closed", "1", "--warm-up-s", "0.2", "--duration-s", str(seconds), "--json", "-"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    whole = float(told["round_trip_us"]["p50"])
    return whole, whole - float(told["stages_us"]["launch"]["p50"])


def curve(report: machine.Report, rounds: int, seconds: float) -> None:
    """An echo of whole messages over tcp, with CURVE and without, in this process' own context: one in flight."""
    found: dict[tuple[int, bool], Us] = {}
    for _ in range(rounds):
        for size in CURVE_BYTES:
            for secured in (False, True):
                found.setdefault((size, secured), []).append(_curve_echo(size, secured, seconds / 2))
    rows: list[dict[str, object]] = [
        {
            "bytes each way": size,
            "NULL p50 us": float(np.median(found[size, False])),
            "CURVE p50 us": float(np.median(found[size, True])),
            "CURVE / NULL": ratio_text(found[size, True], found[size, False]),
        }
        for size in CURVE_BYTES
    ]
    report.table("CURVE: echo over tcp, one in flight", rows)


def _curve_echo(size: int, secured: bool, seconds: float) -> float:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
        if secured:
            (public, secret), (own_public, own_secret) = zmq.curve_keypair(), zmq.curve_keypair()
            router.curve_server, router.curve_secretkey = True, secret
            dealer.curve_serverkey, dealer.curve_publickey, dealer.curve_secretkey = public, own_public, own_secret
        router.bind("tcp://127.0.0.1:*")
        dealer.connect(router.get_string(zmq.LAST_ENDPOINT).rstrip("\0"))
        payload, taken_us = bytes(size), Us()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            begin_ns = time.perf_counter_ns()
            dealer.send(payload)
            router.send_multipart(router.recv_multipart())
            dealer.recv()
            taken_us.append((time.perf_counter_ns() - begin_ns) / 1e3)
    return float(np.median(taken_us[10:]))


def shared_memory(report: machine.Report, spec: ModelSpec, folder: str, rounds: int, seconds: float) -> None:
    """The Python client against a server that decodes and answers zeros: frames over ipc, and a segment."""
    bind = f"ipc://{folder}/decode"
    server_cpu, client_cpu = two_cpus()
    found: dict[tuple[int, bool], Us] = {}
    with (
        Process([sys.executable, str(PEERS / "decode_echo.py"), bind], cpu=server_cpu),
        pinned(client_cpu),
        Client(bind) as frames,
        Client(bind, shm_bytes=1 << 23) as segment,
    ):
        for _ in range(rounds):
            for size in PAYLOAD_BYTES:
                request = request_of(spec, size)
                for client in (frames, segment):
                    found.setdefault((size, client is segment), []).append(_asked(client, request, seconds / 2))
    rows: list[dict[str, object]] = [
        {
            "payload bytes": size,
            "rows": request_of(spec, size).rows,
            "frames p50 us": float(np.median(found[size, False])),
            "segment p50 us": float(np.median(found[size, True])),
            "segment / frames": ratio_text(found[size, True], found[size, False]),
        }
        for size in PAYLOAD_BYTES
    ]
    report.table("shared memory: round trip to a server that decodes and answers zeros, over ipc", rows)


def request_of(spec: ModelSpec, size: int) -> InferRequest:
    row_bytes = 4 * (len(spec.dense_features) + len(spec.sparse_features))
    return one_hot_request(spec, size // row_bytes, np.random.default_rng(SEED))


def _asked(client: Client, request: InferRequest, seconds: float) -> float:
    taken_us = Us()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin_ns = time.perf_counter_ns()
        client.predict(dense=request.dense, ids=request.ids)
        taken_us.append((time.perf_counter_ns() - begin_ns) / 1e3)
    return float(np.median(taken_us[5:]))


def user_once() -> list[dict[str, object]]:
    """The reference model, with some of its features the user's, and a model of a wide user."""
    shapes = {
        "13 dense, 26 features: 8 and 16 the user's": (13, 26, 8, 16),
        "200 dense, 60 features: 180 and 50 the user's": (200, 60, 180, 50),
    }
    rows: list[dict[str, object]] = []
    for name, (dense, features, user_dense, user_features) in shapes.items():
        whole = np.zeros((ROWS, dense), np.float32), np.zeros((ROWS, features), np.int32)
        plain = InferRequest(1, "", None, None, *whole, None, None)
        part = UserPart(
            np.arange(dense) < user_dense,
            np.arange(features) < user_features,
            whole[0][0, :user_dense],
            whole[1][0, :user_features],
        )
        items = whole[0][:, user_dense:], whole[1][:, user_features:]
        rows.append(_sizes(name, plain, InferRequest(1, "", None, None, *items, None, None, user=part)))
    return rows


def _sizes(name: str, plain: InferRequest, once: InferRequest) -> dict[str, object]:
    before, after = (sum(map(len, encode_request(request))) for request in (plain, once))
    return {"features": name, "plain bytes": before, "user once bytes": after, "times smaller": before / after}


if __name__ == "__main__":
    main()

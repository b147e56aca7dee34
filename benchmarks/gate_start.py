"""Gates of start-up: what people wait for, over the imports that it cannot do without."""

from pathlib import Path

from benchmarks.gate_forward import Ratios
from benchmarks.startup import seconds_of, started

ROUNDS = 6
SHORT_ROUNDS = 12
TORCH = "import torch, numpy, zmq, msgpack, click"
CLIENT = "import numpy, zmq, msgpack"


def start_ratios(path: Path, *, quick: bool) -> Ratios:
    """The server's ready line over `import torch`; the client over its packages; --help over click."""
    ratios: Ratios = {"ready": [], "client-import": [], "help": []}
    for _ in range(2 if quick else ROUNDS):
        ratios["ready"].append(started(path, "f32")[0] / seconds_of(["-c", TORCH]))
    for _ in range(2 if quick else SHORT_ROUNDS):
        ratios["client-import"].append(seconds_of(["-c", "import narsil_client"]) / seconds_of(["-c", CLIENT]))
        ratios["help"].append(seconds_of(["-m", "narsil_graph", "--help"]) / seconds_of(["-c", "import click"]))
    return ratios

"""What fewer bits do to the scores: in the embedding rows, and in the dense layers. Prints Markdown; needs no GPU.

python benchmarks/precision.py --original demo_fp32.safetensors

Rows: the original's are stored in each format and scored in float64. Without ``--original`` that is the model itself,
and what its rows had lost before is not in the table. Dense layers: the forward that CUDA graphs record, run here on
the CPU's kernels, against float64 from the same stored rows. TF32 is imitated by rounding what is multiplied.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from narsil_graph import threads

threads.prepare(1)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

from narsil_graph.commands import DEMO_MODEL  # noqa: E402
from narsil_graph.engine import fbgemm  # noqa: E402
from narsil_graph.engine.eager import EagerForward  # noqa: E402
from narsil_graph.engine.exact import exact_scores  # noqa: E402
from narsil_graph.engine.forward import DTYPES  # noqa: E402
from narsil_graph.engine.launcher import Precision  # noqa: E402
from narsil_graph.engine.row_error import check_same_but_rows  # noqa: E402
from narsil_graph.engine.synthetic import multi_hot_request, one_hot_request  # noqa: E402
from narsil_graph.features_file import admitted, read_features  # noqa: E402
from narsil_graph.model.requantise import with_rows  # noqa: E402
from narsil_graph.model.spec import ModelSpec, RowFormat  # noqa: E402
from narsil_graph.model.weights import Model, load_model  # noqa: E402
from narsil_transport.buckets import Bucket  # noqa: E402
from narsil_transport.wire import InferRequest  # noqa: E402

ONE_HOT_ROWS, MULTI_HOT_ROWS, IDS_PER_BAG_MAX = 4096, 1024, 3
Scores = NDArray[np.floating]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=DEMO_MODEL, help="default: the bundled demo")
    parser.add_argument("--original", type=Path, help="the same model with the rows it was trained with")
    parser.add_argument("--input", type=Path, help="an .npz of rows, as for predict; random ones if unset")
    options = parser.parse_args()
    threads.pin_torch(1)
    fbgemm.load_library()
    model = load_model(options.model)
    original = model if options.original is None else load_model(options.original)
    check_same_but_rows(model, original)
    for name, text in machine.describe().items():
        print(f"# {name + ':':<10}{text}")
    requests = _random(model.spec) if options.input is None else [_read(model.spec, options.input)]
    count = sum(request.rows for request in requests)
    print(f"# scored:   {count} rows by {model.spec.name} {model.version}, original {original.version}")
    _table("rows", ["largest", "mean", "MiB of rows"], _row_errors(original, requests))
    _table("dense layers", ["largest", "mean"], _dense_errors(model, requests))


def _random(spec: ModelSpec) -> list[InferRequest]:
    rng = np.random.default_rng(machine.SEED)
    bags = multi_hot_request(spec, MULTI_HOT_ROWS, IDS_PER_BAG_MAX, rng)
    return [one_hot_request(spec, ONE_HOT_ROWS, rng), bags]


def _read(spec: ModelSpec, path: Path) -> InferRequest:
    return admitted(spec, read_features(path)).request


def _table(first: str, columns: Sequence[str], lines: Iterator[tuple[str, ...]]) -> None:
    print(f"\n| {first} | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for line in lines:
        print(f"| {' | '.join(line)} |", flush=True)


def _row_errors(original: Model, requests: Sequence[InferRequest]) -> Iterator[tuple[str, ...]]:
    exact = _exact(original, requests)
    for row_format in RowFormat:
        made = with_rows(original, row_format)
        size = sum(rows.nbytes for rows in made.rows.values()) / 2**20
        yield row_format.value, *_errors(_exact(made, requests), exact), f"{size:.2f}"


def _dense_errors(model: Model, requests: Sequence[InferRequest]) -> Iterator[tuple[str, ...]]:
    exact = _exact(model, requests)
    for precision in DTYPES:
        name = "tf32 (imitated)" if precision is Precision.TF32 else precision.value
        yield name, *_errors(_scores(model, precision, requests), exact)


def _exact(model: Model, requests: Sequence[InferRequest]) -> Scores:
    return np.concatenate([exact_scores(model, request) for request in requests])


def _errors(scores: Scores, exact: Scores) -> tuple[str, str]:
    off = np.abs(scores - exact)
    return f"{off.max():.1e}", f"{off.mean():.1e}"


def _scores(model: Model, precision: Precision, requests: Sequence[InferRequest]) -> Scores:
    forward = EagerForward(model, precision=precision)
    found: list[Scores] = []
    for request in requests:
        ids = request.ids if request.values is None else request.values
        assert ids is not None
        (slot,) = forward.capture(Bucket(request.rows, max(ids.size, 1)))
        slot.arena.fill([(request, 0, request.rows)])
        with Tf32Products() if precision is Precision.TF32 else nullcontext():
            forward.launch(slot)
        found.append(slot.scores)
    return np.concatenate(found)


class Tf32Products(TorchFunctionMode):
    """Rounds both sides of every product to TF32's ten bits, ties to even."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.linear, torch.bmm):
            args = (*map(_ten_bits, args[:2]), *args[2:])
        return func(*args, **(kwargs or {}))


def _ten_bits(x: torch.Tensor) -> torch.Tensor:
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + (bits >> 13 & 1)) & ~0x1FFF).view(torch.float32)


if __name__ == "__main__":
    main()

"""Train the demo model: a small DLRM that predicts whether a user gives a movie four stars or more.

Run ``python -m examples.train_movielens --out narsil_graph/model/demo.safetensors`` from the repository's root. The
epoch is chosen on a tenth of the training rows; the test rows are scored once, at the end.
"""

import argparse
import copy
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from examples import movielens
from examples.movielens import Catalogue, Flags, Ratings, Split, Statistics
from narsil_graph.engine.calibrate import calibrated
from narsil_graph.model.rows import dequantise, quantise
from narsil_graph.model.spec import ModelSpec, RowFormat, SparseFeature, TableSpec
from narsil_graph.model.weights import LinearLayer, Model, save_model
from narsil_transport.wire import InferRequest

DIM = 16
DENSE_ARCH = (64, 32, DIM)
OVER_ARCH = (128, 64, 1)
# These were chosen by validation AUC. Ids overfit within five epochs unless their vectors start near zero and are
# pulled back there much harder than the dense layers.
BATCH_ROWS = 1024
LEARNING_RATE = 2e-3
EMBEDDING_STD = 0.01
EMBEDDING_DECAY = 4.0
LAYER_DECAY = 0.01
EPOCHS_MAX = 12
# Epochs without a better validation AUC before training ends.
PATIENCE_EPOCHS = 2
# Rows per step of the calibration, whose float64 dots would otherwise take 400 MB.
CALIBRATION_ROWS = 4096


class Dlrm(nn.Module):
    """The forward that is served, in plain torch; all tables lie one after another in one embedding."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        sizes = [table.rows for table in spec.tables]
        self.first_row = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.embedding = nn.Embedding(sum(sizes), spec.dim)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        self.dense_layers = _linear_layers(spec.dense_shapes())
        self.over_layers = _linear_layers(spec.over_shapes())
        self.pairs = torch.triu_indices(spec.vectors, spec.vectors, offset=1)

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        """Logits [n] of dense [n, 13] and ids [n, 26]."""
        for layer in self.dense_layers:
            dense = torch.relu(layer(dense))
        vectors = torch.cat([dense[:, None], self.embedding(ids + self.first_row)], dim=1)
        dots = torch.bmm(vectors, vectors.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        out = torch.cat([dense, dots], dim=1)
        for layer in self.over_layers[:-1]:
            out = torch.relu(layer(out))
        logits: Tensor = self.over_layers[-1](out)
        return logits[:, 0]


@dataclass(frozen=True, slots=True)
class Examples:
    """Encoded rows: dense float32 [n, 13], ids int64 [n, 26], and the labels [n]."""

    dense: Tensor
    ids: Tensor
    liked: Flags


def encode(catalogue: Catalogue, statistics: Statistics, part: Ratings, *, counted: bool) -> Examples:
    """Encode a part of the split; `counted` says that `statistics` has counted its rows."""
    dense, ids = movielens.encode(
        catalogue,
        statistics,
        user=part.user,
        movie=part.movie,
        time_s=part.time_s,
        counted_likes=part.liked if counted else None,
    )
    return Examples(torch.from_numpy(dense), torch.from_numpy(ids).long(), part.liked)


def specify(catalogue: Catalogue) -> ModelSpec:
    """One INT8 table per sparse feature."""
    return ModelSpec(
        name="movielens",
        dense_features=movielens.DENSE,
        tables=tuple(
            TableSpec(name=name, rows=rows, dim=DIM)
            for name, rows in zip(movielens.SPARSE, catalogue.rows, strict=True)
        ),
        sparse_features=tuple(SparseFeature(name=name, table=name) for name in movielens.SPARSE),
        dense_arch=DENSE_ARCH,
        over_arch=OVER_ARCH,
    )


def train(network: Dlrm, fit: Examples, validation: Examples) -> None:
    """Leave in `network` the weights of the epoch with the best validation AUC; prints a line per epoch."""
    layers = [*network.dense_layers.parameters(), *network.over_layers.parameters()]
    optimiser = torch.optim.AdamW(
        [
            {"params": network.embedding.parameters(), "weight_decay": EMBEDDING_DECAY},
            {"params": layers, "weight_decay": LAYER_DECAY},
        ],
        lr=LEARNING_RATE,
    )
    labels = torch.from_numpy(fit.liked).float()
    best_auc, best_epoch, best_weights = -math.inf, 0, network.state_dict()
    for epoch in range(1, EPOCHS_MAX + 1):
        began_s = time.monotonic()
        loss_sum = 0.0
        for rows in torch.split(torch.randperm(len(labels)), BATCH_ROWS):
            loss = binary_cross_entropy_with_logits(network(fit.dense[rows], fit.ids[rows]), labels[rows])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            loss_sum += loss.item() * len(rows)
        validation_auc = judge(network, validation)
        took_s = time.monotonic() - began_s
        mean_loss = loss_sum / len(labels)
        print(f"epoch {epoch:2}  loss {mean_loss:.4f}  validation AUC {validation_auc:.4f}  {took_s:.1f} s", flush=True)
        if validation_auc > best_auc:
            best_auc, best_epoch, best_weights = validation_auc, epoch, copy.deepcopy(network.state_dict())
        if epoch - best_epoch >= PATIENCE_EPOCHS:
            break
    network.load_state_dict(best_weights)


@torch.no_grad()
def judge(network: Dlrm, examples: Examples) -> float:
    """The AUC of `network`; logits rank as their sigmoids do."""
    return movielens.auc(examples.liked, network(examples.dense, examples.ids).numpy())


def to_model(network: Dlrm, spec: ModelSpec, fit: Examples) -> Model:
    """The weights as they are served, with INT8 rows and with the activation ranges of the training rows."""
    model = Model(
        spec=spec,
        rows={RowFormat.INT8: quantise(network.embedding.weight.detach().numpy(), RowFormat.INT8)},
        dense_layers=_weights(network.dense_layers),
        over_layers=_weights(network.over_layers),
    )
    samples = [
        InferRequest(0, "", None, None, fit.dense[rows].numpy(), fit.ids[rows].numpy(), None, None)
        for rows in (slice(begin, begin + CALIBRATION_ROWS) for begin in range(0, len(fit.dense), CALIBRATION_ROWS))
    ]
    return calibrated(model, samples)


def with_float32_rows(model: Model, network: Dlrm) -> Model:
    """`model` with the rows of `network`, which its INT8 rows are rounded from (benchmarks/precision.py compares)."""
    tables = tuple(replace(table, format=RowFormat.FP32) for table in model.spec.tables)
    rows = quantise(network.embedding.weight.detach().numpy().copy(), RowFormat.FP32)
    return replace(model, spec=replace(model.spec, tables=tables), rows={RowFormat.FP32: rows})


def main() -> None:
    """Train, report the AUC before and after the rows become INT8, and write the model file if asked."""
    parser = argparse.ArgumentParser(description="Train the MovieLens demo model.")
    parser.add_argument("--wheel", type=Path, help="a recbole 1.2.1 wheel; without it pip downloads one")
    parser.add_argument("--split", choices=("random", "time"), default="random")
    parser.add_argument("--seed", type=int, default=0, help="of the random split and of training")
    parser.add_argument("--out", type=Path, help="where to write the model; without it nothing is written")
    parser.add_argument(
        "--rows", choices=("int8", "fp32"), default="int8", help="how --out stores rows; fp32 is the original"
    )
    parser.add_argument("--save-test", type=Path, help="where to write the test rows, as predict reads them")
    options = parser.parse_args()
    began_s = time.monotonic()
    # One thread: sums are then added in one order, and small batches do not wait for a busy second core.
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    catalogue, ratings = movielens.read_wheel(options.wheel or movielens.download_wheel())
    by_time = options.split == "time"
    split = movielens.split_by_time(ratings) if by_time else movielens.split_randomly(ratings, seed=options.seed)
    model = _train_on(catalogue, split, RowFormat(options.rows), options.save_test)
    print(f"{time.monotonic() - began_s:.1f} s, model {model.version}, {model.weight_bytes:,} bytes of weights")
    if options.out is not None:
        save_model(model, options.out)
        print(f"wrote {options.out}, {options.out.stat().st_size:,} bytes")


def _train_on(catalogue: Catalogue, split: Split, row_format: RowFormat, test_path: Path | None) -> Model:
    statistics = movielens.measure(catalogue, split.fit)
    fit = encode(catalogue, statistics, split.fit, counted=True)
    validation = encode(catalogue, statistics, split.validation, counted=False)
    test = encode(catalogue, statistics, split.test, counted=False)
    if test_path is not None:
        np.savez(test_path, dense=test.dense.numpy(), ids=test.ids.numpy())
    spec = specify(catalogue)
    network = Dlrm(spec)
    train(network, fit, validation)
    print(f"float32 rows: validation AUC {judge(network, validation):.5f}, test AUC {judge(network, test):.5f}")
    model = to_model(network, spec, fit)
    original = with_float32_rows(model, network)
    stored = dequantise(model.rows[RowFormat.INT8], RowFormat.INT8)
    with torch.no_grad():
        network.embedding.weight.copy_(torch.from_numpy(stored))
    print(f"INT8 rows:    validation AUC {judge(network, validation):.5f}, test AUC {judge(network, test):.5f}")
    return original if row_format is RowFormat.FP32 else model


def _linear_layers(shapes: tuple[tuple[int, int], ...]) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(width_in, width_out) for width_out, width_in in shapes)


def _weights(layers: nn.ModuleList) -> tuple[LinearLayer, ...]:
    return tuple(
        LinearLayer(weight=layer.weight.detach().numpy(), bias=layer.bias.detach().numpy())
        for layer in layers
        if isinstance(layer, nn.Linear)
    )


if __name__ == "__main__":
    main()

"""Commands that make, convert and show model files."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from narsil_graph.commands import MODEL_PATH

if TYPE_CHECKING:
    from narsil_graph.model.weights import Model


@click.command("import")
@click.argument("archive", type=MODEL_PATH)
@click.option("-o", "--output", type=MODEL_PATH, required=True, help="The model file to write.")
def import_archive(archive: Path, output: Path) -> None:
    """Convert a TorchRec TorchScript ARCHIVE without running it."""
    from narsil_graph.model.torchrec.importer import import_archive as convert

    write_model(convert(archive), output)


@click.command("make-model")
@click.option("--preset", type=click.Choice(["reference"]), default="reference", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-o", "--output", type=MODEL_PATH, required=True, help="The model file to write.")
def make_model(preset: str, seed: int, output: Path) -> None:
    """Write a model with random weights, for benchmarks."""
    import numpy as np

    from narsil_graph.engine.calibrate import calibrated
    from narsil_graph.engine.synthetic import one_hot_request
    from narsil_graph.model.reference import reference_model

    model = reference_model(seed=seed)
    write_model(calibrated(model, [one_hot_request(model.spec, 2048, np.random.default_rng(seed))]), output)


@click.command()
@click.argument("model", type=MODEL_PATH)
@click.option("--input", "sample", type=MODEL_PATH, required=True, help="An .npz of typical rows, as for predict.")
@click.option("-o", "--output", type=MODEL_PATH, required=True, help="The model file to write.")
def calibrate(model: Path, sample: Path, output: Path) -> None:
    """Record the activation ranges that int8 dense layers need, seen on a sample of real rows."""
    from narsil_graph.engine.calibrate import calibrated
    from narsil_graph.features_file import admitted, read_features
    from narsil_graph.model.weights import load_model

    loaded = load_model(model)
    write_model(calibrated(loaded, [admitted(loaded.spec, read_features(sample)).request]), output)


@click.command()
@click.argument("model", type=MODEL_PATH)
def inspect(model: Path) -> None:
    """Print what a model file holds."""
    from narsil_graph.model.weights import load_model

    loaded = load_model(model)
    spec = loaded.spec
    click.echo(f"{spec.name}  version {loaded.version}  {loaded.weight_bytes / 2**20:.1f} MiB of weights")
    click.echo(f"dense arch  {'-'.join(map(str, (len(spec.dense_features), *spec.dense_arch)))}")
    dots = spec.vectors * (spec.vectors - 1) // 2
    click.echo(f"over arch   {'-'.join(map(str, (spec.over_width, *spec.over_arch)))}  ({dots} dots)")
    click.echo(f"int8 ranges {'yes' if spec.activation_ranges else 'no (run narsil-graph calibrate)'}")
    click.echo(f"dense       {', '.join(spec.dense_features)}")
    width = max(len(feature.name) for feature in spec.sparse_features)
    for feature, table in zip(spec.sparse_features, spec.feature_tables, strict=True):
        shape = f"{table.rows} x {table.dim} {table.format.value} {table.pooling.value}"
        click.echo(f"sparse      {feature.name:<{width}}  {shape}  (table {table.name})")


def write_model(model: "Model", output: Path) -> None:
    """Save it, and say so; a Failure where it cannot be written."""
    from narsil_graph.errors import Failure
    from narsil_graph.model.weights import save_model

    try:
        save_model(model, output)
    except OSError as error:
        raise Failure(f"cannot write {output}: {error.strerror}") from None
    click.echo(f"wrote {output}: {model.spec.name} version {model.version}, {output.stat().st_size / 2**20:.1f} MiB")

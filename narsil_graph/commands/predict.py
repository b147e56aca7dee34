"""`narsil-graph predict`: score a file, by a running server or in this process."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from narsil_graph.commands import MODEL_PATH, PRECISIONS
from narsil_graph.commands.curve import curve_options

if TYPE_CHECKING:
    from narsil_client.curve import Curve
    from narsil_transport.messages import Floats, InferRequest


@click.command()
@click.option("--input", "source", type=MODEL_PATH, required=True, help="An .npz: dense, and ids or lengths + values.")
@click.option("-o", "--output", type=MODEL_PATH, required=True, help="An .npz to write: scores.")
@click.option("--connect", "endpoint", default=None, help="Score by the server at this endpoint.")
@curve_options
@click.option("--model", type=MODEL_PATH, default=None, help="Score in this process with this model file.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="f32", show_default=True, help="With --model.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="With --model.")
@click.option("--engine", type=click.Choice(["plan", "eager"]), default="plan", show_default=True, help="With --model.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.001), default=30.0, show_default=True)
def predict(
    source: Path,
    output: Path,
    endpoint: str | None,
    curve: "Curve | None",
    model: Path | None,
    precision: str,
    device: str,
    engine: str,
    timeout_s: float,
) -> None:
    """Score the rows of an .npz file."""
    if (endpoint is None) == (model is None):
        raise click.UsageError("want one of --connect and --model")
    if curve is not None and endpoint is None:
        raise click.UsageError("the keys are for --connect")
    if model is not None:
        from narsil_graph import threads

        threads.prepare(1)
        threads.pin_torch(1)
    import numpy as np

    from narsil_graph.errors import Failure
    from narsil_graph.features_file import read_features

    request = read_features(source)
    if endpoint is not None:
        scores = _served(endpoint, curve, request, timeout_s=timeout_s)
    else:
        assert model is not None
        from narsil_graph.engine.launcher import Precision
        from narsil_graph.model.weights import load_model
        from narsil_graph.scoring import score

        scores = score(load_model(model), request, engine=engine, device=device, precision=Precision(precision))
    try:
        # Opened here, for savez adds .npz to a name without it.
        with output.open("wb") as file:
            np.savez(file, scores=scores)
    except OSError as error:
        raise Failure(f"cannot write {output}: {error.strerror}") from None
    click.echo(f"wrote {output}: {len(scores)} scores")


def _served(endpoint: str, curve: "Curve | None", request: "InferRequest", *, timeout_s: float) -> "Floats":
    from narsil_client import Client, NarsilError
    from narsil_graph.errors import Failure

    try:
        with Client(endpoint, timeout_s=timeout_s, curve=curve) as client:
            return client.predict(
                dense=request.dense, ids=request.ids, lengths=request.lengths, values=request.values
            ).scores
    except (NarsilError, ValueError) as error:
        raise Failure(f"{endpoint}: {error}") from None

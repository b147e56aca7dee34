"""`narsil-graph quantise`: store a model's embedding rows in another format."""

from pathlib import Path

import click

from narsil_graph.commands import MODEL_PATH
from narsil_graph.commands.models import write_model

# RowFormat's values; naming them here keeps numpy out of --help.
ROW_FORMATS = ("int8", "int4", "fp16", "fp32")


@click.command()
@click.argument("model", type=MODEL_PATH)
@click.option("--rows", "row_format", type=click.Choice(ROW_FORMATS), required=True, help="How to store them.")
@click.option("-o", "--output", type=MODEL_PATH, required=True, help="The model file to write.")
def quantise(model: Path, row_format: str, output: Path) -> None:
    """Store the embedding rows of MODEL in another format, and say what that does to its scores."""
    import numpy as np

    from narsil_graph.engine.row_error import row_error
    from narsil_graph.model.requantise import with_rows
    from narsil_graph.model.spec import RowFormat
    from narsil_graph.model.weights import load_model

    loaded = load_model(model)
    made = with_rows(loaded, RowFormat(row_format))
    error = row_error(made, loaded, np.random.default_rng(0))
    write_model(made, output)
    click.echo(f"its scores differ from those of {model} by at most {error:.1e} on random rows")

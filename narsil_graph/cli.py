"""The command line. Nothing here imports numpy or torch: each command does so when it runs."""

import click

from narsil_graph import __version__
from narsil_graph.commands.bench import bench
from narsil_graph.commands.conformance import conformance
from narsil_graph.commands.doctor import doctor
from narsil_graph.commands.keygen import keygen
from narsil_graph.commands.models import calibrate, import_archive, inspect, make_model
from narsil_graph.commands.plan import plan
from narsil_graph.commands.predict import predict
from narsil_graph.commands.quantise import quantise
from narsil_graph.commands.serve import serve
from narsil_graph.commands.simulate import simulate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Serve a DLRM so that a whole forward is one verified launch."""


for command in (
    serve,
    keygen,
    predict,
    doctor,
    import_archive,
    make_model,
    calibrate,
    quantise,
    inspect,
    plan,
    simulate,
    conformance,
    bench,
):
    cli.add_command(command)

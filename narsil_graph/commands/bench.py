"""`narsil-graph bench`: how fast, compared with what, and where the time goes."""

import click

from narsil_graph.commands.bench_ab import ab
from narsil_graph.commands.bench_load import load
from narsil_graph.commands.bench_profile import profile


@click.group()
def bench() -> None:
    """Load a server, compare two, or see where a request's time goes."""


for command in (load, ab, profile):
    bench.add_command(command)

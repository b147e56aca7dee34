"""`narsil-graph keygen`: a CURVE key pair for a server or a client."""

from pathlib import Path

import click


@click.command(context_settings={"show_default": True})
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("."), metavar="DIR",
              help="The folder to write them to.")  # fmt: skip
def keygen(name: str, out: Path) -> None:
    """Write NAME.key, which is public, and NAME.key_secret, which only you can read.

    A client's NAME.key goes into the server's --authorized-clients folder; a server's is what its clients are given.
    Each NAME.key_secret stays where it is used. Neither file is ever overwritten.
    """
    from narsil_graph.errors import Failure
    from narsil_transport.keys import KeyFileError, write_key_pair

    try:
        public = write_key_pair(out, name)
    except KeyFileError as error:
        raise Failure(str(error)) from None
    click.echo(f"wrote {out / name}.key: {public.decode()}\nwrote {out / name}.key_secret: show it to nobody")

"""The keys of a command that asks a server which demands CURVE."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from narsil_graph.commands import MODEL_PATH
from narsil_graph.errors import UsageFailure

if TYPE_CHECKING:
    from narsil_client.curve import Curve


def curve_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives ``command`` a ``curve``: both of the two options, or None. UsageFailure where one comes alone or is bad."""

    @click.option("--curve-server-key", default=None, metavar="KEY", help="The server's public key, 40 characters.")
    @click.option("--curve-secret-key", type=MODEL_PATH, default=None, help="With it: this client's NAME.key_secret.")
    @functools.wraps(command)
    def with_curve(*, curve_server_key: str | None, curve_secret_key: Path | None, **others: Any) -> None:
        command(curve=_curve(curve_server_key, curve_secret_key), **others)

    return with_curve


def _curve(server_key: str | None, secret_key: Path | None) -> "Curve | None":
    if server_key is None and secret_key is None:
        return None
    if server_key is None or secret_key is None:
        raise UsageFailure("--curve-server-key and --curve-secret-key want each other")
    from narsil_client.curve import Curve

    try:
        curve = Curve(server_key, secret_key)
        curve.read()
    except ValueError as error:
        raise UsageFailure(str(error)) from None
    return curve

"""What the commands of `bench` share: numbers, and the files that they write."""

import json
import math
import sys
from pathlib import Path
from typing import Any, Self

import click

from narsil_graph.errors import Failure, UsageFailure


class Finite(click.FloatRange):
    """A number of a range, which inf and nan are not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is no finite number.", param, ctx)
        return found


POSITIVE_NUMBER = Finite(min=0, min_open=True)
# Requests per second, ten times what one thread can send.
RATE = Finite(min=0, min_open=True, max=1_000_000)
COLUMNS = 78


def check_folders(*paths: Path | None) -> None:
    """What would be found out only after the measurement. Raises UsageFailure."""
    for path in paths:
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageFailure(f"cannot write {path}: there is no such folder")


def check_files(report: Path | None, png: Path | None) -> None:
    """Whether there is what these files want. Raises UsageFailure, or a Failure without matplotlib."""
    check_folders(report, png)
    if png is not None:
        from narsil_graph.bench.load_plot import figures

        figures()


def write_report(path: Path, options: dict[str, Any], found: dict[str, Any]) -> None:
    """What was found, as JSON, and where and how. A Failure where it cannot be written."""
    from narsil_graph import __version__
    from narsil_graph.machine_id import machine_id

    told: dict[str, Any] = {
        "version": __version__,
        "machine": machine_id("cpu"),
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in options.items()},
    }
    text = json.dumps(told | found, indent=1, allow_nan=False)
    try:
        path.write_text(text + "\n")
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None


class ProgressLine:
    """The progress line of a terminal's standard error, and none elsewhere; left, it is wiped."""

    def __init__(self) -> None:
        self.shown = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """In the place of what was shown before."""
        if self.shown:
            print(f"\r{text:<{COLUMNS}.{COLUMNS}}", end="", file=sys.stderr, flush=True)

    def tell(self, text: str) -> None:
        """On a line of its own, that stays."""
        self._wipe()
        click.echo(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._wipe()

    def _wipe(self) -> None:
        if self.shown:
            print(f"\r{'':<{COLUMNS}}\r", end="", file=sys.stderr, flush=True)

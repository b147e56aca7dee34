"""`narsil-graph conformance`: does a server keep to the protocol, whatever it is sent?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from narsil_graph.commands import MODEL_PATH
from narsil_graph.commands.curve import curve_options

if TYPE_CHECKING:
    from narsil_client.curve import Curve

# The longest name of a case, and what most of them want.
NAME_WIDTH, WANTED_WIDTH = 34, 24


@click.command()
@click.argument("endpoint")
@click.option("--json", "report", type=MODEL_PATH, default=None, help="Write the table to this file, too.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.001), default=5.0, show_default=True,
              help="Seconds to wait for each reply.")  # fmt: skip
@curve_options
def conformance(endpoint: str, curve: "Curve | None", report: Path | None, timeout_s: float) -> None:
    """Send the server at ENDPOINT every kind of message, good and hostile, and print what came back.

    Exits 0 if each was answered as PROTOCOL.md wants and the server went on serving, 1 if not.
    """
    from dataclasses import asdict

    from narsil_client import NarsilError
    from narsil_client.conformance import Finding, examine
    from narsil_graph.errors import Failure, UsageFailure

    findings: list[Finding] = []
    click.echo(line("case", "wanted", "got", "ok"))
    try:
        for finding in examine(endpoint, timeout_s=timeout_s, curve=curve):
            findings.append(finding)
            click.echo(line(finding.name, finding.wanted, finding.got, "ok" if finding.passed else "FAILED"))
    except NarsilError as error:
        raise UsageFailure(str(error)) from None
    if report is not None:
        try:
            report.write_text(json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
        except OSError as error:
            raise Failure(f"cannot write {report}: {error.strerror}") from None
    failed = [finding.name for finding in findings if not finding.passed]
    if failed:
        raise Failure(f"{len(failed)} of {len(findings)} cases failed: {', '.join(failed)}")
    click.echo(f"all {len(findings)} cases passed")


def line(name: str, wanted: str, got: str, verdict: str) -> str:
    """One row of the table; the verdict stands first among what varies in length, so that the eye finds it."""
    return f"{name:<{NAME_WIDTH}} {verdict:<6} {wanted:<{WANTED_WIDTH}} {got}".rstrip()

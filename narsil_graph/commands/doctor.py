"""`narsil-graph doctor`: prove a model's captured buckets before anyone is served by them."""

import dataclasses
import json
from pathlib import Path

import click

from narsil_graph.commands import BUCKETS, DEMO_MODEL, MODEL_PATH, PRECISIONS


@click.command()
@click.argument("model", type=MODEL_PATH, default=DEMO_MODEL)
@click.option("--buckets", default=BUCKETS, show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default="f32", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the reports as JSON.")
def doctor(model: Path, buckets: str, precision: str, threads: int, as_json: bool) -> None:
    """Check every bucket against float64, poisoned padding, neighbours and repeats; exit 1 when any check fails."""
    from narsil_graph import threads as thread_settings

    thread_settings.prepare(threads)
    from narsil_graph.engine.doctor import Doctor
    from narsil_graph.engine.launcher import Precision
    from narsil_graph.errors import Failure, UsageFailure
    from narsil_graph.model.weights import load_model
    from narsil_graph.serving import build_engine
    from narsil_transport.buckets import parse_rows

    thread_settings.pin_torch(threads)
    try:
        bucket_rows = parse_rows(buckets)
    except ValueError as error:
        raise UsageFailure(f"--buckets: {error}") from None
    loaded, chosen = load_model(model), Precision(precision)
    built = build_engine(loaded, engine="plan", precision=chosen, bucket_rows=bucket_rows, ids_per_row=None)
    reports = []
    if not as_json:
        click.echo(f"{loaded.spec.name} version {loaded.version}, {precision}, {threads} threads")
        click.echo("  rows   replay p50      p99    eager  ratio    error   MiB  kernels")
    for report in Doctor(loaded, built, chosen).reports():
        reports.append(report)
        if not as_json:
            ratio = report.eager_us_p50 / report.replay_us_p50
            click.echo(
                f"{report.rows:>6} {report.replay_us_p50:>9.0f} us {report.replay_us_p99:>8.0f} "
                f"{report.eager_us_p50:>8.0f} {ratio:>5.2f}x {report.error:>8.1e} "
                f"{report.arena_mib:>5.2f}  {report.kernels}"
            )
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(report) for report in reports], indent=1))
    problems = [
        f"bucket {report.rows}: {finding.check}: {finding.problem}"
        for report in reports
        for finding in report.findings
        if finding.problem is not None
    ]
    if problems:
        raise Failure("; ".join(problems))
    if not as_json:
        click.echo(f"healthy: {len(reports)} buckets, {sum(len(report.findings) for report in reports)} checks")

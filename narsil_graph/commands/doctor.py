"""`narsil-graph doctor`: prove a model's captured buckets before anyone is served by them."""

import dataclasses
import enum
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from narsil_graph.commands import DEMO_MODEL, MODEL_PATH, POSITIVE, engine_config, engine_options

if TYPE_CHECKING:
    from narsil_graph.build import EngineConfig
    from narsil_graph.cost_file import CostFile
    from narsil_graph.engine.doctor import BucketReport, Diagnosis
    from narsil_graph.engine.engine import Engine
    from narsil_graph.model.weights import Model

COLUMNS = (
    "  rows nodes  capture ms  device MiB  arena MiB  replay us p50      p99  eager us  ratio"
    "    error    eager  kernels"
)


@click.command(context_settings={"show_default": True})
@click.argument("model", type=MODEL_PATH, default=DEMO_MODEL)
@engine_options
@click.option("--threads", type=POSITIVE, default=1, envvar="NARSIL_THREADS", help="Threads of one forward.")
@click.option("--against", type=MODEL_PATH, default=None, metavar="ORIGINAL",
              help="Also print how far scores are from those of the model that MODEL was quantised from.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--save-cost", type=MODEL_PATH, default=None, metavar="FILE",
              help="Write what launches and messages cost here, for plan and simulate.")  # fmt: skip
@click.option("--dot", type=MODEL_PATH, default=None, metavar="FILE",
              help="Write the largest bucket's graph in the DOT language (cuda).")  # fmt: skip
def doctor(
    model: Path,
    threads: int,
    against: Path | None,
    as_json: bool,
    save_cost: Path | None,
    dot: Path | None,
    **options: Any,
) -> None:
    """Examine every slot of every bucket, and the engine as a whole; exit 1 when any check fails.

    On cuda the weights must fit the device twice: the eager forward has its own. Costs are measured, and written,
    only where every check passed.
    """
    from narsil_graph import threads as thread_settings

    thread_settings.prepare(threads)
    import torch

    from narsil_graph.build import build_engine
    from narsil_graph.engine.doctor import Doctor
    from narsil_graph.errors import Failure
    from narsil_graph.lazy_capture import tell_captured
    from narsil_graph.model.weights import load_model

    thread_settings.pin_torch(threads)
    config = engine_config(options)
    _refuse(config, dot)
    loaded = load_model(model)
    row_error = None if against is None else _row_error(loaded, against)
    engine = build_engine(loaded, config)
    engine.capture_all(tell_captured)
    if dot is not None:
        _draw(engine, dot)
    if not as_json:
        click.echo(f"{loaded.spec.name} version {loaded.version}, {_words(config)}, {threads} threads\n{COLUMNS}")
    examiner = Doctor(loaded, engine, config.precision, torch.device(config.device))
    diagnosis = examiner.examine(lambda report: None if as_json else click.echo(_line(report)))
    cost = None if diagnosis.problems else _cost(loaded, engine, config, threads)
    if as_json:
        click.echo(json.dumps(_as_json(loaded, config, diagnosis, cost, row_error), indent=1))
    else:
        click.echo(_more(cost, row_error, against), nl=False)
    if diagnosis.problems:
        raise Failure("\n".join(diagnosis.problems))
    if save_cost is not None and cost is not None:
        cost.save(save_cost)
    if not as_json:
        click.echo(f"healthy: {len(diagnosis.reports)} buckets, {diagnosis.checks} checks")


def _refuse(config: "EngineConfig", dot: Path | None) -> None:
    """UsageFailure where nothing could be examined, or drawn."""
    from narsil_graph.errors import UsageFailure

    if config.engine == "eager":
        raise UsageFailure("--engine eager captures nothing that could be examined")
    if dot is not None and config.device == "cpu":
        raise UsageFailure("a CPU plan has no graph to draw: --dot is for --device cuda")


def _row_error(model: "Model", against: Path) -> float:
    import numpy as np

    from narsil_graph.engine.row_error import row_error
    from narsil_graph.model.weights import load_model

    return row_error(model, load_model(against), np.random.default_rng(0))


def _cost(model: "Model", engine: "Engine", config: "EngineConfig", threads: int) -> "CostFile":
    from narsil_graph.limits import limits_of
    from narsil_graph.measure_cost import REQUEST_ROWS, measure, to_cost_file

    limits = limits_of(model.spec, rows_max=REQUEST_ROWS, ids_per_row_max=engine.ladder.ids_max)
    return to_cost_file(measure(engine, model, limits), model=model, config=config, threads=threads)


def _draw(engine: "Engine", path: Path) -> None:
    """The graph that a full largest bucket with one id in every bag replays."""
    from narsil_graph.engine.cuda_graph import GraphSlot

    slot = engine.captured[engine.ladder.buckets[-1]].slots[0]
    assert isinstance(slot, GraphSlot)
    slot.one_id.write_dot(path)


def _words(config: "EngineConfig") -> str:
    words = f"{config.device} {config.precision.value}"
    if config.device == "cpu":
        return words
    return f"{words} {config.kernels.value}, {config.lanes} lanes x {config.slots} slots, {config.completion.value}"


def _line(report: "BucketReport") -> str:
    ratio = report.eager_us_p50 / report.replay_us_p50
    eager_error = "-" if report.eager_error is None else f"{report.eager_error:.1e}"
    return (
        f"{report.rows:>6} {report.nodes:>5} {report.capture_ms:>11.1f} {report.capture_mib:>11.2f} "
        f"{report.arena_mib:>10.3f} {report.replay_us_p50:>14.1f} {report.replay_us_p99:>8.1f} "
        f"{report.eager_us_p50:>9.1f} {ratio:>5.2f}x {report.error:>8.1e} {eager_error:>8}  {report.kernels}"
    )


def _more(cost: "CostFile | None", row_error: float | None, against: Path | None) -> str:
    """The lines below the table."""
    costs = "" if cost is None else f"request us {cost.request_us:.1f}, reply us {cost.reply_us:.1f}\n"
    return costs if row_error is None else f"{costs}row error {row_error:.1e}, beside the scores of {against}\n"


def _as_json(
    model: "Model",
    config: "EngineConfig",
    diagnosis: "Diagnosis",
    cost: "CostFile | None",
    row_error: float | None,
) -> dict[str, object]:
    """What JSON can hold: enumerations by value, and no score that is not a number."""
    from narsil_graph.engine.cuda_support import describe

    options = {name: _plain(value) for name, value in dataclasses.asdict(config).items()}
    device = describe() if config.device == "cuda" else describe() | {"device": "cpu"}
    reports = [
        {name: _plain(value) for name, value in dataclasses.asdict(report).items()} for report in diagnosis.reports
    ]
    return {
        "model": model.spec.name,
        "version": model.version,
        "device": device,
        "engine": options,
        "findings": [dataclasses.asdict(finding) for finding in diagnosis.findings],
        "buckets": reports,
        "cost": None if cost is None else cost.to_dict(),
        "fault": diagnosis.fault,
        "row_error": row_error,
        "healthy": not diagnosis.problems,
    }


def _plain(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.value
    return None if isinstance(value, float) and not math.isfinite(value) else value

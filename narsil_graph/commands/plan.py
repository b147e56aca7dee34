"""`narsil-graph plan`: the bucket ladder that costs least for recorded traffic, beside powers of two."""

import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from narsil_graph.commands import BUCKET_ROWS_MAX, MODEL_PATH, POSITIVE

if TYPE_CHECKING:
    from narsil_graph.cost_file import CostFile
    from narsil_graph.engine.graph_memory import GraphMemory
    from narsil_graph.model.spec import ModelSpec
    from narsil_graph.planner import CostCurve, Histogram, Plan
    from narsil_graph.trace import Trace
    from narsil_transport.buckets import BucketLadder


@click.command(context_settings={"show_default": True})
@click.option("--trace", "trace_path", type=MODEL_PATH, required=True, help="What serve --record wrote.")
@click.option("--cost", "cost_path", type=MODEL_PATH, required=True, help="What doctor --save-cost wrote.")
@click.option("--max-buckets", type=POSITIVE, default=16, help="The most buckets.")
@click.option("--rows-max", type=click.IntRange(1, BUCKET_ROWS_MAX), default=None,
              show_default="the trace's largest request",
              help="What the largest bucket holds; larger requests are split.")  # fmt: skip
@click.option("--graph-memory", type=POSITIVE, default=None, metavar="MIB",
              help="The most device memory that the graphs may need; wants --model.")  # fmt: skip
@click.option("--model", "model_path", type=MODEL_PATH, default=None, help="The model that was recorded.")
@click.option("--lanes", type=POSITIVE, default=1, help="As for serve; each lane needs memory for its own graphs.")
@click.option("--slots", type=POSITIVE, default=2, help="As for serve; each slot needs memory for its own input.")
@click.option("--any-machine", is_flag=True, help="Use costs of another machine than the trace's.")
@click.option("-o", "--output", type=MODEL_PATH, default=None, metavar="CONFIG",
              help="Put the buckets into this TOML file for serve --config; what else it says stays.")  # fmt: skip
def plan(
    trace_path: Path,
    cost_path: Path,
    max_buckets: int,
    rows_max: int | None,
    graph_memory: int | None,
    model_path: Path | None,
    lanes: int,
    slots: int,
    any_machine: bool,
    output: Path | None,
) -> None:
    """Find the buckets that cost least for the request sizes of a trace."""
    import numpy as np

    from narsil_graph.cost_file import load_cost
    from narsil_graph.planner import CostCurve, Histogram, assess, plan_ladder, power_of_two_ladder
    from narsil_graph.trace import read_trace

    trace, cost = read_trace(trace_path), load_cost(cost_path)
    cost.check(trace.header.version, None if any_machine else trace.header.machine)
    spec = None if model_path is None else _spec(model_path, trace)
    rows, ids = (trace.records[name].astype(np.int64) for name in ("rows", "ids"))
    histogram, curve = Histogram.of(rows, ids, rows_max=rows_max), CostCurve(*cost.curve())
    room = _room(trace, spec)
    if graph_memory is None:
        ladder = plan_ladder(histogram, curve, features=1, buckets_max=max_buckets)
    else:
        graphs = _graphs(spec, cost, trace, lanes=lanes, slots=slots)
        ladder = _plan_within(graphs, graph_memory, room, histogram, curve, buckets_max=max_buckets)
    ids_per_row = None if _one_id_each(trace, spec) else _ids_per_row(ladder, room)
    config = None if output is None else _config(output, ladder, ids_per_row)
    plain = power_of_two_ladder(histogram, features=1, buckets_max=max_buckets)
    click.echo(f"{len(rows)} requests of {rows.min()} to {rows.max()} rows, {rows.mean():.1f} on average")
    for line in _table(assess(ladder, histogram, curve), assess(plain, histogram, curve)):
        click.echo(line)
    for line in _settings(ladder, ids_per_row):
        click.echo(line)
    if output is not None and config is not None:
        _write(output, config)
        click.echo(f"wrote {output}")


def _spec(path: Path, trace: "Trace") -> "ModelSpec":
    from narsil_graph.errors import Failure
    from narsil_graph.model.weights import load_model

    model = load_model(path)
    if model.version != trace.header.version:
        raise Failure(f"{path} has version {model.version}, the trace is of version {trace.header.version}")
    return model.spec


def _one_id_each(trace: "Trace", spec: "ModelSpec | None") -> bool:
    """Whether every request had one id per feature, as far as is known: only a model says how many features it has."""
    return spec is not None and bool((trace.records["ids"] == trace.records["rows"] * len(spec.sparse_features)).all())


def _room(trace: "Trace", spec: "ModelSpec | None") -> int:
    """The least ids per row of a bucket, whatever was observed: serve wants room for one per feature.

    Where the features are not known, or nothing will be written, it is what the server that recorded had.
    """
    recorded = trace.header.ladder
    if spec is None or _one_id_each(trace, spec):
        return -(-recorded.ids_max // recorded.rows_max)
    return len(spec.sparse_features)


def _ids_per_row(ladder: "BucketLadder", room: int) -> int:
    """What gives each bucket at least its ids, for serve has one number for all."""
    return max(room, *(-(-bucket.ids // bucket.rows) for bucket in ladder.buckets))


def _graphs(spec: "ModelSpec | None", cost: "CostFile", trace: "Trace", *, lanes: int, slots: int) -> "GraphMemory":
    """The memory of the ladder that the trace was recorded with."""
    from narsil_graph.engine.graph_memory import GraphMemory
    from narsil_graph.errors import UsageFailure

    if spec is None:
        raise UsageFailure("--graph-memory wants --model, for graphs need what its layers make")
    if cost.device != "cuda":
        raise UsageFailure(f"--graph-memory is for costs of --device cuda, and these are of {cost.device}")
    dense_bytes = 2 if cost.precision in ("bf16", "fp16") else 4
    return GraphMemory(
        spec=spec, ladder=trace.header.ladder, dense_bytes=dense_bytes, lanes=lanes, slots_per_lane=slots
    )


def _plan_within(
    graphs: "GraphMemory", budget_mib: int, room: int, histogram: "Histogram", curve: "CostCurve", *, buckets_max: int
) -> "BucketLadder":
    """The cheapest ladder whose inputs and constants fit beside the largest bucket's pools.

    The allocator's segments round the sum up: what that takes too much is taken off the budget, and planned again.
    """
    from narsil_graph.engine.graph_memory import MIB, WORKSPACE_BYTES, GraphMemory
    from narsil_graph.errors import Failure
    from narsil_graph.planner import plan_ladder
    from narsil_transport.buckets import Bucket, BucketLadder

    def captured(ladder: BucketLadder) -> GraphMemory:
        rows = [bucket.rows for bucket in ladder.buckets]
        return replace(graphs, ladder=BucketLadder.from_rows(rows, ids_per_row=_ids_per_row(ladder, room)))

    def bucket_bytes(bucket: Bucket) -> int:
        (memory,) = captured(BucketLadder((bucket,))).buckets
        return graphs.lanes * graphs.slots_per_lane * memory.arena_bytes + memory.constant_bytes

    largest = histogram.ladder(histogram.rows[-1:], features=1)
    alone = captured(largest)
    if alone.total_bytes > budget_mib * MIB:
        need = f"{alone.total_bytes / MIB:.1f} MiB that one bucket of {largest.rows_max} rows needs"
        raise Failure(f"--graph-memory {budget_mib} MiB is less than the {need}")
    fixed_bytes = graphs.lanes * (alone.pool_bytes + WORKSPACE_BYTES)
    least_bytes, limit_bytes = fixed_bytes + bucket_bytes(largest.buckets[0]), budget_mib * MIB
    while True:
        ladder = plan_ladder(
            histogram,
            curve,
            features=1,
            buckets_max=buckets_max,
            memory=bucket_bytes,
            memory_max_bytes=limit_bytes,
            fixed_bytes=fixed_bytes,
        )
        over_bytes = captured(ladder).total_bytes - budget_mib * MIB
        if over_bytes <= 0:
            return ladder
        limit_bytes = max(limit_bytes - over_bytes, least_bytes)


def _table(best: "Plan", plain: "Plan") -> Iterator[str]:
    columns = ("buckets", "us a request", "over ideal", "padded rows", "us if split")
    yield " " * 14 + "".join(f"{column:>14}" for column in columns)
    for name, made in (("planned", best), ("powers of two", plain)):
        shares = f"{made.over_ideal:>14.1%}{made.padded_rows:>14.1%}"
        yield f"{name:<14}{len(made.ladder.buckets):>14}{made.expected_us:>14.1f}{shares}{made.split_us:>14.1f}"
    yield f"{'a bucket each':<28}{best.ideal_us:>14.1f}"


def _settings(ladder: "BucketLadder", ids_per_row: int | None) -> Iterator[str]:
    """Lines of TOML whose keys are options of serve."""
    yield f"buckets = {[bucket.rows for bucket in ladder.buckets]}"
    if ids_per_row is not None:
        yield f"ids_per_row = {ids_per_row}"


def _config(path: Path, ladder: "BucketLadder", ids_per_row: int | None) -> str:
    """The file's text with the new settings in place of the old; a Failure where that is not all that would change."""
    from narsil_graph.errors import Failure

    try:
        text = path.read_text() if path.exists() else ""
        before = tomllib.loads(text)
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise Failure(f"{path} is not TOML: {error}") from None
    for line in _settings(ladder, ids_per_row):
        text = _with_line(text, line)
    wanted: dict[str, object] = {"buckets": [bucket.rows for bucket in ladder.buckets]}
    if ids_per_row is not None:
        wanted["ids_per_row"] = ids_per_row
    if _parsed(text) != before | wanted:
        raise Failure(f"{path} cannot be changed line by line: want buckets and ids_per_row on one line each")
    hot = {int(rows) for rows in re.findall(r"\d+", str(before.get("hot_buckets", "")))}
    if unknown := sorted(hot - {bucket.rows for bucket in ladder.buckets}):
        raise Failure(f"{path} has hot_buckets {unknown[0]}, which is not planned: take it out first")
    return text


def _with_line(text: str, line: str) -> str:
    key = line.partition(" ")[0]
    changed, count = re.subn(rf"^{key}\s*=.*$", line, text, flags=re.MULTILINE)
    return changed if count else text + ("\n" if text and not text.endswith("\n") else "") + line + "\n"


def _parsed(text: str) -> dict[str, object] | None:
    try:
        return tomllib.loads(text)
    except ValueError:
        return None


def _write(path: Path, text: str) -> None:
    """Put ``text`` at ``path`` in one step; a Failure if it cannot be."""
    from narsil_graph.errors import Failure

    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise Failure(f"cannot write {path}: {error.strerror}") from None

"""What the doctor says of an engine with tiny buckets."""

from narsil_graph.engine.doctor import Diagnosis, Doctor
from narsil_graph.engine.engine import Engine
from narsil_graph.engine.launcher import Launcher, Precision
from narsil_graph.model.weights import Model
from narsil_transport.buckets import BucketLadder


def captured(model: Model, launcher: Launcher, *, rows: tuple[int, ...]) -> Engine:
    """An engine with every bucket captured, and room for four ids per feature."""
    engine = Engine(launcher, BucketLadder.from_rows(rows, ids_per_row=4 * len(model.spec.sparse_features)))
    engine.capture_all(lambda bucket, captured: None)
    return engine


def examined(model: Model, engine: Engine, precision: Precision = Precision.F32) -> Diagnosis:
    return Doctor(model, engine, precision).examine(lambda report: None)


def problems_of(diagnosis: Diagnosis) -> dict[str, str]:
    """By check, the first problem that it has found anywhere."""
    every = [finding for report in diagnosis.reports for finding in report.findings] + list(diagnosis.findings)
    found: dict[str, str] = {}
    for finding in every:
        if finding.problem is not None:
            found.setdefault(finding.check, finding.problem)
    return found

"""What a captured bucket must show before anyone is served by it; the doctor looks at far more."""

from dataclasses import dataclass

import numpy as np

from narsil_graph.engine.engine import Engine
from narsil_graph.engine.exact import exact_scores
from narsil_graph.engine.launcher import Precision
from narsil_graph.engine.synthetic import one_hot_request
from narsil_graph.errors import Failure
from narsil_graph.metrics import Counters
from narsil_graph.model.weights import Model
from narsil_transport.buckets import Bucket

# The largest score error against float64 that a server starts with. Measured errors are in benchmarks/RESULTS.md; TF32
# and float16 keep three bits more than bfloat16, an eighth of its error.
TOLERANCES = {
    Precision.F32: 1e-5,
    Precision.TF32: 1e-2,
    Precision.BF16: 5e-2,
    Precision.FP16: 1e-2,
    Precision.INT8: 2e-1,
}
# Enough to catch a wrong kernel.
ROWS = 8


@dataclass(frozen=True, slots=True)
class StartCheck:
    """Scores a random batch by every slot of a bucket, and asks the launcher what it finds."""

    model: Model
    engine: Engine
    precision: Precision
    counters: Counters

    def __call__(self, bucket: Bucket) -> float:
        """The largest score error against float64; a Failure if it is too large or the launcher has a finding."""
        request = one_hot_request(self.model.spec, min(bucket.rows, ROWS), np.random.default_rng(bucket.rows))
        exact = exact_scores(self.model, request)
        tolerance, worst = TOLERANCES[self.precision], 0.0
        for slot in self.engine.captured[bucket].slots:
            launched = self.engine.finish(self.engine.submit_to(slot, [(request, 0, request.rows)]))
            self.counters.launched(bucket, request.rows)
            error = float(np.abs(launched.scores[: request.rows] - exact).max())
            if not error <= tolerance:
                raise Failure(
                    f"bucket {bucket.rows} is {error:.1e} off the float64 scores, more than {tolerance:.0e}: "
                    "run narsil-graph doctor, or serve with --precision f32"
                )
            for finding in self.engine.launcher.examine(slot):
                if finding.problem is not None:
                    raise Failure(f"bucket {bucket.rows}: {finding.check}: {finding.problem}")
            worst = max(worst, error)
        return worst

"""The CPU's static plan: one program per bucket over preallocated buffers, in the fastest allowed arithmetic."""

import numpy as np
import torch

from narsil_graph.engine.arena import Arena
from narsil_graph.engine.cpu_pipeline import Pipeline, PositionDependent, is_uniform, table_bases
from narsil_graph.engine.launcher import Launcher, Precision, Slot
from narsil_graph.engine.pick import Candidate, fastest
from narsil_graph.engine.scratch import Scratch
from narsil_graph.engine.synthetic import one_hot_request
from narsil_graph.model.spec import SpecError
from narsil_graph.model.weights import Model
from narsil_transport.buckets import Bucket

# A lower precision never forbids a higher one: small buckets are often faster in float32, and more exact.
ALLOWED = {
    Precision.F32: (Precision.F32,),
    Precision.BF16: (Precision.F32, Precision.BF16),
    Precision.INT8: (Precision.F32, Precision.INT8),
}


class CpuPlan(Launcher):
    """Launches run the bucket's program in the calling thread, on as many threads as torch is set to."""

    def __init__(self, model: Model, precision: Precision = Precision.F32) -> None:
        """Raises SpecError for int8 without activation ranges, Int8Unavailable (at capture) where int8 cannot run."""
        if precision is Precision.INT8 and not model.spec.activation_ranges:
            raise SpecError(
                f"model {model.spec.name!r} has no activation ranges, which int8 needs: run narsil-graph calibrate"
            )
        self._spec = model.spec
        scratch = Scratch()
        self._pipelines = [Pipeline(model, allowed, scratch) for allowed in ALLOWED[precision]]
        uniform = is_uniform(model.spec)
        self._lead = int(uniform)
        self._bases = table_bases(model.spec) if uniform else np.zeros(len(model.spec.sparse_features), np.int32)

    @torch.inference_mode()
    def capture(self, bucket: Bucket) -> tuple[Slot, ...]:
        arena = Arena(bucket, dense_width=len(self._spec.dense_features), id_bases=self._bases, lead=self._lead)
        scores = torch.zeros(bucket.rows)
        rows = min(bucket.rows, bucket.ids // len(self._spec.sparse_features))
        arena.fill([(one_hot_request(self._spec, rows, np.random.default_rng(0)), 0, rows)])
        program = fastest(self._bound(arena, scores))
        return (Slot(arena=arena, program=program.run, scores=scores.numpy(), kernels=program.name),)

    def _bound(self, arena: Arena, scores: torch.Tensor) -> list[Candidate]:
        """A program per allowed precision. float32 always has one; a lower one may not for this bucket."""
        exact, *lower = self._pipelines
        programs = [exact.bind(arena, scores)]
        for pipeline in lower:
            try:
                programs.append(pipeline.bind(arena, scores))
            except PositionDependent:
                continue
        return programs

"""The buckets that start-up left out, captured one by one while the server has nothing else to do."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from narsil_graph.engine.engine import Captured, Engine
from narsil_transport.batcher import Batch
from narsil_transport.buckets import Bucket, BucketLadder


class LazyCapture:
    """Which buckets of the engine's ladder are ``missing``, and how many batches each of them would have served.

    ``verify`` is called for each bucket after its capture and before its first batch, and raises a Failure if its
    scores are wrong.
    """

    def __init__(self, engine: Engine, verify: Callable[[Bucket], object]) -> None:
        self._engine = engine
        self._verify = verify
        self._wanted: Counter[Bucket] = Counter()
        self.missing = [bucket for bucket in engine.ladder.buckets if bucket not in engine.captured]

    def note(self, batch: Batch) -> None:
        """Count the bucket that this batch would have taken, were all captured."""
        best = self._engine.ladder.cover(batch.rows, batch.ids)
        assert best is not None
        self._wanted[best] += 1

    def capture_next(self) -> BucketLadder:
        """Capture, verify and tell of the most wanted bucket. Nothing may be in flight.

        The ladder of all captured buckets; Failure or DeviceFault where the engine cannot be trusted with it.
        """
        bucket = next_capture(self.missing, self._wanted)
        captured = self._engine.capture(bucket)
        self._verify(bucket)
        self.missing.remove(bucket)
        tell_captured(bucket, captured)
        return self._engine.captured_ladder


def next_capture(missing: Iterable[Bucket], wanted: Mapping[Bucket, int]) -> Bucket:
    """The bucket that most batches would have used; of equals the largest, which pads the most without it."""
    return max(missing, key=lambda bucket: (wanted.get(bucket, 0), bucket.rows))


def tell_captured(bucket: Bucket, captured: Captured) -> None:
    """Say on standard error what capturing a bucket made and cost."""
    memory = f" {captured.device_bytes / 2**20:6.1f} MiB on the device" if captured.device_bytes else ""
    cost = f"{captured.seconds * 1e3:6.0f} ms{memory}"
    print(f"captured {bucket.rows:>5} rows in {cost}  {captured.slots[0].kernels}", file=sys.stderr)

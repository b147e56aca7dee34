"""The buckets that start-up left out, or that a better ladder adds, captured one by one while nothing else is to do."""

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
        self._at_once = True
        self.missing = [bucket for bucket in engine.ladder.buckets if bucket not in engine.captured]

    def note(self, batch: Batch) -> None:
        """Count the bucket that this batch would have taken, were all captured."""
        best = self._engine.ladder.cover(batch.rows, batch.ids)
        assert best is not None
        self._wanted[best] += 1

    def pursue(self, ladder: BucketLadder) -> BucketLadder | None:
        """Begin to capture what of ``ladder`` is new; the one in use serves until all of it is there.

        ``ladder`` where nothing of it is new, else None. Nothing may be missing.
        """
        self._engine.adopt(ladder)
        self._wanted.clear()
        self._at_once = False
        self.missing = [bucket for bucket in ladder.buckets if bucket not in self._engine.captured]
        return None if self.missing else ladder

    def capture_next(self) -> BucketLadder | None:
        """Capture, verify and tell of the most wanted bucket. Nothing may be in flight.

        The ladder to use from now on, or None to go on as before. Failure or DeviceFault where the engine cannot be
        trusted with the bucket.
        """
        bucket = next_capture(self.missing, self._wanted)
        captured = self._engine.capture(bucket)
        self._verify(bucket)
        self.missing.remove(bucket)
        tell_captured(bucket, captured)
        return self._engine.captured_ladder if self._at_once or not self.missing else None


def next_capture(missing: Iterable[Bucket], wanted: Mapping[Bucket, int]) -> Bucket:
    """The bucket that most batches would have used; of equals the largest, which pads the most without it."""
    return max(missing, key=lambda bucket: (wanted.get(bucket, 0), bucket.rows))


def tell_captured(bucket: Bucket, captured: Captured) -> None:
    """Say on standard error what capturing a bucket made and cost."""
    memory = f" {captured.device_bytes / 2**20:6.1f} MiB on the device" if captured.device_bytes else ""
    cost = f"{captured.seconds * 1e3:6.0f} ms{memory}"
    print(f"captured {bucket.rows:>5} rows in {cost}  {captured.slots[0].kernels}", file=sys.stderr)

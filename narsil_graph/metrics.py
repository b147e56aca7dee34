"""What a server counts: replies by status, launches and padding by bucket."""

from collections import Counter

from narsil_transport.buckets import Bucket
from narsil_transport.status import Status


class Counters:
    """Plain numbers, read by METADATA; no eager launch exists unless the whole engine is eager."""

    def __init__(self) -> None:
        # A list, because an enumeration's hash is computed in Python at every use.
        self._answers = [0] * len(Status)
        self._launches: Counter[int] = Counter()
        self._rows: Counter[int] = Counter()

    def answered(self, status: Status) -> None:
        self._answers[status] += 1

    def replayed(self, bucket: Bucket, rows: int) -> None:
        self._launches[bucket.rows] += 1
        self._rows[bucket.rows] += rows

    def to_dict(self, *, dropped_replies: int) -> dict[str, object]:
        """Ready for msgpack: replies by status name, and per bucket the launches, rows and padded rows."""
        return {
            "replies": {status.name: self._answers[status] for status in Status if self._answers[status]},
            "dropped_replies": dropped_replies,
            "buckets": {
                str(bucket_rows): {
                    "replayed": launches,
                    "rows": self._rows[bucket_rows],
                    "padded_rows": launches * bucket_rows - self._rows[bucket_rows],
                }
                for bucket_rows, launches in sorted(self._launches.items())
            },
        }

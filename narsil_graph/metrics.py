"""What a server counts: replies by status, launches and padding by bucket, peers and connections."""

from dataclasses import asdict, dataclass

from narsil_transport.buckets import Bucket
from narsil_transport.router import Router
from narsil_transport.status import Status


@dataclass(slots=True)
class Launches:
    """Of one bucket: launches of what was captured, launches without it, and the rows scored and padded by both.

    An eager launch computes the rows that are there, so it pads none.
    """

    replayed: int = 0
    eager: int = 0
    rows: int = 0
    padded_rows: int = 0


class Counters:
    """Plain numbers, read by METADATA. ``eager`` says of all launches that they run nothing that was captured."""

    def __init__(self, *, eager: bool) -> None:
        self._eager = eager
        # A list, because an enumeration's hash is computed in Python at every use.
        self._answers = [0] * len(Status)
        # By rows, for the same reason.
        self._launches: dict[int, Launches] = {}

    def answered(self, status: Status) -> None:
        self._answers[status] += 1

    def launched(self, bucket: Bucket, rows: int) -> None:
        """``rows`` rows were scored in ``bucket``."""
        launches = self._launches.get(bucket.rows)
        if launches is None:
            launches = self._launches[bucket.rows] = Launches()
        launches.rows += rows
        if self._eager:
            launches.eager += 1
        else:
            launches.replayed += 1
            launches.padded_rows += bucket.rows - rows

    def line(self) -> str:
        """One word, ``launches=`` and for each bucket rows:replayed/eager/padded_rows; "none" before the first."""
        counts = (
            f"{bucket_rows}:{launches.replayed}/{launches.eager}/{launches.padded_rows}"
            for bucket_rows, launches in sorted(self._launches.items())
        )
        return f"launches={','.join(counts) or 'none'}"

    def to_dict(self, router: Router, *, memory_cuts: int) -> dict[str, object]:
        """Ready for msgpack: replies by status name, what ``router`` counted, and `Launches` by bucket rows."""
        peers, connections = router.peers, router.connections
        return {
            "replies": {status.name: self._answers[status] for status in Status if self._answers[status]},
            "dropped_replies": peers.dropped_replies,
            "peers": {
                "slow": len(peers.slow),
                "slowed": peers.slowed,
                "unserved_messages": peers.unserved,
                "refused_by_window": peers.refused_by_window,
                "unauthorized": self._answers[Status.UNAUTHORIZED],
            },
            "connections": {
                "open": connections.count,
                "refused": connections.refused,
                "handshakes_failed": connections.handshakes_failed,
                "memory_cuts": memory_cuts,
            },
            "buckets": self.buckets(),
        }

    def buckets(self) -> dict[str, object]:
        """`Launches` by bucket rows, ready for msgpack."""
        return {str(bucket_rows): asdict(launches) for bucket_rows, launches in sorted(self._launches.items())}

"""When each lane will be free, by known costs; and which launches tell what a launch costs. Pure, given the time."""

from narsil_transport.buckets import Bucket
from narsil_transport.cost import CostModel


class Lanes:
    """``free_ns`` is when each lane will be done with what it has, by the cost model; not after now for an idle one."""

    def __init__(self, cost: CostModel, count: int) -> None:
        self.free_ns = [0] * count
        self._cost = cost
        self._flights = [0] * count

    def launched(self, bucket: Bucket, lane: int, now_ns: int) -> bool:
        """``lane`` has taken a launch. Whether it was idle, so that its time will be that of this launch alone."""
        alone = not self._flights[lane]
        begin_ns = now_ns if alone else max(now_ns, self.free_ns[lane])
        self.free_ns[lane] = begin_ns + self._cost.launch_ns(bucket)
        self._flights[lane] += 1
        return alone

    def landed(self, bucket: Bucket, lane: int, taken_ns: int, now_ns: int, *, alone: bool) -> None:
        """A launch has been read. What it took corrects the cost model, if it was its lane's only one."""
        self._flights[lane] -= 1
        if not self._flights[lane]:
            self.free_ns[lane] = now_ns
        if alone:
            self._cost.observe(bucket, taken_ns)

    def emptiest(self) -> int:
        """The lane with the fewest launches, the first of equals."""
        return self._flights.index(min(self._flights))

"""What the server knows of time: who waits, when each lane is free, what launches cost, and what became of requests."""

from collections.abc import Sequence
from dataclasses import replace

from narsil_graph.lanes import Lanes
from narsil_graph.replan import Replanner
from narsil_graph.slo import SloController
from narsil_graph.trace import Recorder
from narsil_transport.admission import Admitted
from narsil_transport.batcher import Batcher
from narsil_transport.cost import CostModel
from narsil_transport.status import Refusal, Status


class Schedule:
    """The batcher, its cost model and lanes, and those that watch, each of which may be None. It touches no clock.

    ``beside`` are the schedules of other variants, whose launches and its own take turns.
    """

    def __init__(
        self,
        batcher: Batcher,
        cost: CostModel,
        *,
        lanes: int = 1,
        default_deadline_us: int | None = None,
        slo: SloController | None = None,
        recorder: Recorder | None = None,
        replanner: Replanner | None = None,
    ) -> None:
        self.batcher = batcher
        self.cost = cost
        self.default_deadline_us = default_deadline_us
        self.replanner = replanner
        self.beside: Sequence[Schedule] = ()
        self.lanes = Lanes(cost, lanes)
        self._slo = slo
        self._recorder = recorder

    def enter(self, admitted: Admitted, now_ns: int) -> Refusal | None:
        """Queue it, or refuse what would miss its deadline and what the queue has no room for."""
        if self.replanner is not None:
            self.replanner.observe(admitted.rows, admitted.ids)
        free_ns = self.lanes.free_ns
        if self.beside and admitted.deadline_ns is not None:
            between_ns = self._between_ns(admitted, now_ns)
            free_ns = [max(lane_ns, now_ns) + between_ns for lane_ns in free_ns]
        return self.batcher.refuse_late(admitted, now_ns=now_ns, free_ns=free_ns) or self.batcher.add(admitted)

    def _between_ns(self, admitted: Admitted, now_ns: int) -> int:
        """What the others launch before this request is scored: what they have queued, but a launch for each here."""
        own_ns = self.batcher.predicted_ns(admitted, now_ns=now_ns, free_ns=self.lanes.free_ns) - now_ns
        launches = max(own_ns / self._longest_ns(), 1.0)
        # No rows, behind all that is queued.
        last = replace(admitted, rows=0, ids=0, deadline_ns=None, bulk=True)
        between_ns = 0
        for other in self.beside:
            if other.batcher.pending_requests:
                queued_ns = other.batcher.predicted_ns(last, now_ns=now_ns, free_ns=(now_ns,)) - now_ns
                between_ns += min(queued_ns, round(launches * other._longest_ns()))
        return between_ns

    def _longest_ns(self) -> int:
        """What a launch of the largest bucket within the batcher's cap takes."""
        buckets, rows_max = self.cost.buckets, self.batcher.settings.rows_max
        within = [bucket for bucket in buckets if rows_max is None or bucket.rows <= rows_max] or buckets[:1]
        return self.cost.launch_ns(within[-1])

    def ended(self, admitted: Admitted, status: Status, now_ns: int) -> None:
        """A request has its answer."""
        arrival_ns, deadline_ns = admitted.admitted_ns, admitted.deadline_ns
        latency_ns = now_ns - arrival_ns
        if self._slo is not None and status is Status.OK:
            self._slo.observe(latency_ns, now_ns)
        if self._recorder is not None:
            self._recorder.record(
                arrival_ns=arrival_ns,
                rows=admitted.rows,
                ids=admitted.ids,
                deadline_us=0 if deadline_ns is None else (deadline_ns - arrival_ns) // 1000,
                latency_us=latency_ns // 1000,
                status=status,
                bulk=admitted.bulk,
            )

    def adjust(self, now_ns: int) -> None:
        """Let the controller, if there is one, tune the batcher."""
        if self._slo is not None and (settings := self._slo.adjust(now_ns)) is not None:
            self.batcher.tune(settings)

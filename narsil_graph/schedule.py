"""What the server knows of time: who waits, when each lane is free, what launches cost, and what became of requests."""

from narsil_graph.lanes import Lanes
from narsil_graph.replan import Replanner
from narsil_graph.slo import SloController
from narsil_graph.trace import Recorder
from narsil_transport.admission import Admitted
from narsil_transport.batcher import Batcher
from narsil_transport.cost import CostModel
from narsil_transport.status import Refusal, Status


class Schedule:
    """The batcher, its cost model and lanes, and those that watch, each of which may be None. It touches no clock."""

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
        self.lanes = Lanes(cost, lanes)
        self._slo = slo
        self._recorder = recorder

    def enter(self, admitted: Admitted, now_ns: int) -> Refusal | None:
        """Queue it, or refuse what would miss its deadline and what the queue has no room for."""
        if self.replanner is not None:
            self.replanner.observe(admitted.rows, admitted.ids)
        refusal = self.batcher.refuse_late(admitted, now_ns=now_ns, free_ns=self.lanes.free_ns) or self.batcher.add(
            admitted
        )
        if refusal is not None:
            self.ended(admitted, refusal.status, now_ns)
        return refusal

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

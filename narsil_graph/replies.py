"""The way back: each accepted request's one reply, counted where it leaves."""

import time

from narsil_graph.metrics import Counters
from narsil_graph.schedule import Schedule
from narsil_graph.variants_tally import Tally
from narsil_transport.admission import Admitted
from narsil_transport.messages import WINDOW_START, AttachReply, Floats, StageTimes
from narsil_transport.router import Route, Router
from narsil_transport.status import Refusal, Status
from narsil_transport.wire import encode_attached, encode_refusal, encode_scores


class Replies:
    """Sends scores and refusals through ``router``. ``window`` is what each says of it: nothing, where clients know.

    With a ``tally`` there are several models: what becomes of the admitted requests of this one is counted there, and
    scores say its name.
    """

    def __init__(
        self, router: Router, *, schedule: Schedule, counters: Counters, version: str, tally: Tally | None = None
    ) -> None:
        self.window = None if router.peers.window == WINDOW_START else router.peers.window
        self._router = router
        self._schedule = schedule
        self._counters = counters
        self._version = version
        self._tally = tally
        self._variant = None if tally is None else tally.name

    def scored(
        self, admitted: Admitted, scores: Floats, times: StageTimes, *, bucket_rows: int, rows_filled: int, now_ns: int
    ) -> None:
        """The scores of an admitted request, which may be overwritten afterwards."""
        self._counters.answered(Status.OK)
        self._schedule.ended(admitted, Status.OK, now_ns)
        request, route = admitted.request, admitted.route
        assert isinstance(route, Route)
        frames = encode_scores(
            request.request_id,
            self._version,
            bucket_rows,
            rows_filled,
            times,
            request.traceparent,
            scores,
            self.window,
            self._variant,
        )
        if self._tally is not None:
            self._tally.scored(scores, times)
            self._tally.server.add(times.server_us)
        self._router.send(route, frames)
        self._router.peers.left(route.identity)

    def dropped(self, admitted: Admitted, refusal: Refusal) -> None:
        """An admitted request will not be scored."""
        route = admitted.route
        assert isinstance(route, Route)
        self._schedule.ended(admitted, refusal.status, time.monotonic_ns())
        if self._tally is not None:
            self._tally.refused[refusal.status] += 1
        self.refused(route, admitted.request.request_id, refusal)
        self._router.peers.left(route.identity)

    def refused(self, route: Route, request_id: int, refusal: Refusal) -> None:
        """A message was not accepted."""
        self._counters.answered(refusal.status)
        self._router.send(route, (encode_refusal(request_id, self._version, refusal, self.window),))

    def attached(self, route: Route, request_id: int, segment: int) -> None:
        """An ATTACH was accepted."""
        self._router.send(route, (encode_attached(AttachReply(request_id, self._version, segment), self.window),))

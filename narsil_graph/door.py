"""What becomes of a message that has come: it enters the queue, is answered at once, or is refused."""

from collections.abc import Callable, Collection, Sequence
from functools import partial

from narsil_graph.replies import Replies
from narsil_graph.variants import Split, Variant
from narsil_transport.admission import Admitted, ModelLimits, admit
from narsil_transport.messages import AttachRequest, CancelRequest, ControlRequest, InferRequest, Refused, Span
from narsil_transport.router import Message, Route, Router
from narsil_transport.segments import Segments
from narsil_transport.status import Refusal, Status
from narsil_transport.wire import decode_request

# When memory that was short may be there again: several looks of the watch later.
MEMORY_RETRY_US = 100_000

DRAINING = Refusal(Status.DRAINING, "the server is stopping")
MEMORY = Refusal(Status.OVERLOADED, "the server is short of memory", retry_after_us=MEMORY_RETRY_US)
REVOKED = Refusal(Status.UNAUTHORIZED, "this client's key is no longer allowed")
CANCELLED = Refusal(Status.CANCELLED, "cancelled by the client before it was launched")
GONE = Refusal(Status.CANCELLED, "the client has gone")


class Door:
    """Decides by what it is told: ``draining`` and ``memory_short`` are the server's to set.

    Requests go to the first of ``variants``, or to the one that ``split`` chooses. ``replies`` are for what no variant
    has accepted.
    ``describe`` gives the one frame that answers a HEALTH or METADATA question. Without ``segments`` no shared memory
    is offered.
    """

    def __init__(
        self,
        *,
        router: Router,
        variants: Sequence[Variant],
        split: Split | None,
        limits: ModelLimits,
        replies: Replies,
        describe: Callable[[ControlRequest, int], bytes],
        segments: Segments | None,
    ) -> None:
        self.draining = False
        self.memory_short = False
        self._router = router
        self._variants = variants
        self._split = split
        self._limits = limits
        self._replies = replies
        self._describe = describe
        self._segments = segments
        peers = router.peers
        self._window_full = Refusal(
            Status.OVERLOADED,
            f"this client has {peers.window} requests unanswered, at most {peers.window} are taken",
        )

    def accept(self, message: Message, now_ns: int) -> None:
        """Whatever the message is, it gets exactly one reply, now or after its batch; a CANCEL gets none."""
        route, security = message.route, self._router.security
        fetch = None if self._segments is None else partial(self._fetch, self._segments, route.identity)
        request = decode_request(message.header, message.tensors, fetch)
        if security is not None and not security.permits(message.user):
            # A connection outlives its key's permission; its CANCELs have nobody to tell.
            if not isinstance(request, CancelRequest):
                self._replies.refused(route, request.request_id, REVOKED)
        elif isinstance(request, InferRequest):
            refusal = self._enqueue(request, route, now_ns)
            if refusal is not None:
                self._replies.refused(route, request.request_id, refusal)
        elif isinstance(request, Refused):
            self._replies.refused(route, request.request_id, request.refusal)
        elif isinstance(request, CancelRequest):
            self._cancel(route.identity, request.request_id)
        elif isinstance(request, AttachRequest):
            self._attach(request, route)
        else:
            self._router.send(route, (self._describe(request, now_ns),))

    def _closed(self) -> Refusal | None:
        """Why no request enters now, if so."""
        if self.draining:
            return DRAINING
        return MEMORY if self.memory_short else None

    def _fetch(self, segments: Segments, identity: bytes, span: Span) -> list[bytes] | Refusal:
        """The tensors there; they are not copied for a request that is refused anyway."""
        return self._closed() or segments.fetch(identity, span)

    def _attach(self, request: AttachRequest, route: Route) -> None:
        assert self._segments is not None, "the decoder refuses ATTACH where nothing can be fetched"
        outcome = self._segments.attach(route.identity, request)
        if isinstance(outcome, Refusal):
            self._replies.refused(route, request.request_id, outcome)
        else:
            self._replies.attached(route, request.request_id, outcome)

    def _enqueue(self, request: InferRequest, route: Route, now_ns: int) -> Refusal | None:
        """Why it is not admitted; what is admitted is its variant's to answer."""
        closed = self._closed()
        if closed is not None:
            return closed
        variant = self._variants[0] if self._split is None else self._split.choose(request, route)
        peers = self._router.peers
        if not peers.enter(route.identity):
            return self._window_full
        outcome = admit(
            request,
            limits=self._limits,
            now_ns=now_ns,
            route=route,
            default_deadline_us=variant.schedule.default_deadline_us,
        )
        if isinstance(outcome, Refusal):
            peers.left(route.identity)
            return outcome
        refusal = variant.schedule.enter(outcome, now_ns)
        if refusal is not None:
            variant.answers.dropped(outcome, refusal)
        return None

    def _cancel(self, identity: bytes, request_id: int) -> None:
        """Free the queued rows of a peer's request, which is told so."""

        def given_up(queued: Admitted) -> bool:
            return _identity(queued) == identity and queued.request.request_id == request_id

        for variant in self._variants:
            variant.cancel(given_up, CANCELLED)

    def forget(self, gone: Collection[bytes]) -> None:
        """Free what these peers have queued, for nobody waits for it, and their shared memory."""
        if self._segments is not None:
            for identity in gone:
                self._segments.forget(identity)
        for variant in self._variants:
            variant.cancel(lambda queued: _identity(queued) in gone, GONE)


def _identity(queued: Admitted) -> bytes:
    assert isinstance(queued.route, Route)
    return queued.route.identity

"""Batchers, and what the tests ask of them."""

from collections.abc import Mapping

from narsil_transport.admission import Admitted
from narsil_transport.batcher import Batch, Batcher, Mode, Settings
from narsil_transport.buckets import BucketLadder
from narsil_transport.cost import CostModel, LaunchCost
from narsil_transport.messages import Priority
from tests.transport.requests import FEATURES, admitted, one_hot

LADDER = BucketLadder.from_rows((1, 2, 4, 8), ids_per_row=FEATURES)
# So dear is a launch, and so cheap a row, that no partition is cheaper than the smallest cover.
LAUNCH_NS, ROW_NS = 1000, 10


def costs(ladder: BucketLadder, launches_ns: Mapping[int, int] | None = None) -> CostModel:
    """What each bucket takes: as given by its rows, or else by a launch and its rows."""
    by_rows = launches_ns or {bucket.rows: LAUNCH_NS + ROW_NS * bucket.rows for bucket in ladder.buckets}
    return CostModel({bucket: LaunchCost(by_rows[bucket.rows], by_rows[bucket.rows]) for bucket in ladder.buckets})


def batcher(
    mode: Mode = Mode.BATCH,
    *,
    ladder: BucketLadder = LADDER,
    cost: CostModel | None = None,
    queue_rows_max: int = 1000,
    settings: Settings | None = None,
) -> Batcher:
    return Batcher(
        ladder=ladder,
        cost=cost or costs(ladder),
        mode=mode,
        queue_rows_max=queue_rows_max,
        settings=settings or Settings(),
    )


def entering(
    rows: int, deadline_us: int | None = None, *, request_id: int = 0, now_ns: int = 0, bulk: bool = False
) -> Admitted:
    priority = Priority.BULK if bulk else Priority.INTERACTIVE
    return admitted(one_hot(rows, request_id=request_id, deadline_us=deadline_us, priority=priority), now_ns=now_ns)


def queued(queue: Batcher, *requests: tuple[int, int | None], first: int = 0, bulk: bool = False) -> list[Admitted]:
    """(rows, deadline_us) of each request, admitted at 0, with ids that count from ``first``."""
    entered = [
        entering(rows, deadline_us, request_id=index, bulk=bulk)
        for index, (rows, deadline_us) in enumerate(requests, first)
    ]
    for each in entered:
        assert queue.add(each) is None
    return entered


def ranges(batch: Batch | None) -> list[tuple[int, int, int]]:
    """(request id, begin, end) of each piece."""
    assert batch is not None
    return [(piece.admitted.request.request_id, piece.begin, piece.end) for piece in batch.pieces]


def bucket_rows(batch: Batch | None) -> int:
    assert batch is not None
    return batch.bucket.rows

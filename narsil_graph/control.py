"""The answers to HEALTH and METADATA questions."""

from typing import TYPE_CHECKING

from narsil_transport.messages import ControlRequest, HealthReply, HealthState, MetadataReply, Operation
from narsil_transport.wire import encode_health, encode_metadata

if TYPE_CHECKING:
    from narsil_graph.server import Server


def describe(server: "Server", request: ControlRequest, now_ns: int) -> bytes:
    """One header frame, from what ``server`` holds now."""
    if request.operation is Operation.HEALTH:
        state = HealthState.DRAINING if server.draining else HealthState.READY
        uptime_s = (now_ns - server.started_ns) / 1e9
        return encode_health(HealthReply(request.request_id, server.version, state, server.unanswered(), uptime_s))
    meta = {
        "spec": server.model.spec.to_dict(),
        "rows_max": server.limits.rows_max,
        "buckets": [[bucket.rows, bucket.ids] for bucket in server.engine.captured_ladder.buckets],
        "missing_buckets": [[bucket.rows, bucket.ids] for bucket in server.lazy.missing],
        "counters": server.counters.to_dict(dropped_replies=server.router.dropped_replies),
        "cost": server.schedule.cost.to_dict(),
    }
    return encode_metadata(MetadataReply(request.request_id, server.version, meta))

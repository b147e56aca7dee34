"""The answers to HEALTH and METADATA questions."""

from typing import TYPE_CHECKING

from narsil_transport.header import REQUEST_HEADER_BYTES_MAX
from narsil_transport.messages import ControlRequest, HealthReply, HealthState, MetadataReply, Operation
from narsil_transport.wire import TENSORS_MAX, encode_health, encode_metadata

if TYPE_CHECKING:
    from narsil_graph.server import Server


def describe(server: "Server", request: ControlRequest, now_ns: int) -> bytes:
    """One header frame, from what ``server`` holds now."""
    window = server.replies.window
    if request.operation is Operation.HEALTH:
        state = HealthState.DRAINING if server.door.draining else HealthState.READY
        uptime_s = (now_ns - server.started_ns) / 1e9
        health = HealthReply(request.request_id, server.version, state, server.unanswered(), uptime_s)
        return encode_health(health, window)
    counters = server.counters.to_dict(server.router, memory_cuts=server.memory.cuts if server.memory else 0)
    segments = server.segments
    if segments is not None:
        counters["shm"] = {"segments": len(segments), "reads": segments.reads}
    meta = {
        "spec": server.model.spec.to_dict(),
        "shm": segments is not None,
        "rows_max": server.limits.rows_max,
        "window": server.router.peers.window,
        "limits": {
            "frame_bytes_max": server.router.frames_bytes_max,
            "header_bytes_max": REQUEST_HEADER_BYTES_MAX,
            "tensors_max": TENSORS_MAX,
            "ids_per_row_max": server.limits.ids_per_row_max,
            "expanded_ids_max": server.limits.expanded_ids_max,
            "connections_max": server.router.connections.maximum,
        },
        "buckets": [[bucket.rows, bucket.ids] for bucket in server.engine.captured_ladder.buckets],
        "missing_buckets": [[bucket.rows, bucket.ids] for bucket in server.main.lazy.missing],
        "counters": counters,
        "cost": server.schedule.cost.to_dict(),
    }
    if server.main.tally is not None:
        meta["variants"] = variants_of(server)
    return encode_metadata(MetadataReply(request.request_id, server.version, meta), window)


def variants_of(server: "Server") -> dict[str, object]:
    """What each of the server's models has done, by name."""
    split = server.variants[1:]
    roles = [
        ("main", server.main),
        *(("split", each) for each in split),
        *(("shadow", each) for each in server.shadows),
    ]
    return {each.tally.name: each.to_dict(role) for role, each in roles if each.tally is not None}

"""How long the server's loop may sleep."""

# How long an idle server sleeps before it looks whether it was told to stop.
IDLE_WAIT_MS = 100
# For so long messages are taken in before the next launch: some dozens. One peer's flood must not keep the lanes idle.
TURN_NS = 2_000_000
# With buckets left to capture, a silence of this length is the time to do it.
CAPTURE_WAIT_MS = 5
# A replay takes some tens of microseconds: what has not landed after this is no longer worth a core.
SPIN_NS = 2_000_000
# The shortest wait of a poll, and so what a launch beyond the spin may wait to be seen.
LANDING_WAIT_MS = 1
# No batch takes a thousandth of this: a launch that does will never land.
LAUNCH_TIMEOUT_NS = 10_000_000_000


def patience_ms(*, queued: int, in_flight: int, since_launch_ns: int, linger_ns: int, idle_ms: int) -> int:
    """How long the loop may sleep over the socket: ``idle_ms`` only where no request waits for anything else.

    ``linger_ns`` is how much longer the batcher will wait for more requests, if it does. A linger below the poll's
    millisecond is spent awake.
    """
    if in_flight:
        return 0 if since_launch_ns < SPIN_NS else LANDING_WAIT_MS
    if queued:
        return min(linger_ns // 1_000_000, idle_ms)
    return idle_ms

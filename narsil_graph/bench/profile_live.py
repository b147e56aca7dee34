"""The stages of a running server's requests, as its replies tell them."""

from time import monotonic, monotonic_ns

from narsil_client.curve import Curve
from narsil_graph.bench.driver import ROOM_WAIT_S
from narsil_graph.bench.narsil import fetch_spec, narsil_subject
from narsil_graph.bench.requests import RequestPool
from narsil_graph.bench.subject import Done, Subject
from narsil_graph.errors import Failure

STAGES = ("client and wire", "queue", "fill", "launch", "read", "rest of the server")
TIMEOUT_S = 5.0
WARM_REQUESTS = 20


def live_stages(
    endpoint: str, *, rows: int, requests: int, seed: int, curve: Curve | None = None
) -> dict[str, list[float]]:
    """Microseconds of each request in each stage, one request at a time. Failure where one is not scored."""
    pool = RequestPool.constant(fetch_spec(endpoint, curve=curve), rows, seed)
    taken_us: dict[str, list[float]] = {name: [] for name in STAGES}
    subject = narsil_subject([endpoint], 1, timeout_s=TIMEOUT_S, curve=curve)
    try:
        for number in range(WARM_REQUESTS + requests):
            begin_ns = monotonic_ns()
            done = _answer(subject, number, pool)
            if done.times is None:
                raise Failure(f"{endpoint}: a request of {rows} rows ended as {done.status}")
            if number < WARM_REQUESTS:
                continue
            times = done.times
            within_us = times.queue_us, times.fill_us, times.launch_us, times.read_us
            outside_us = (done.done_ns - begin_ns) / 1e3 - times.server_us
            for name, us in zip(STAGES, (outside_us, *within_us, times.server_us - sum(within_us)), strict=True):
                taken_us[name].append(us)
    finally:
        subject.close()
    return taken_us


def _answer(subject: Subject, number: int, pool: RequestPool) -> Done:
    end_s = monotonic() + TIMEOUT_S
    while not subject.submit(number, pool[number]):
        subject.poll(ROOM_WAIT_S)
        if monotonic() > end_s:
            raise Failure(f"the server took no request for {TIMEOUT_S:g} s")
    while not (ended := subject.poll(TIMEOUT_S)):
        pass
    return ended[0]

"""How far a load is, for who watches it."""

from collections.abc import Callable
from time import monotonic_ns

from narsil_graph.bench.subject import OK, Done, Rows, Subject

EVERY_NS = 500_000_000


class Watched:
    """A subject that says twice a second what has become of its requests; it costs its driver a microsecond each."""

    def __init__(self, subject: Subject, say: Callable[[str], None], clock: Callable[[], int] = monotonic_ns) -> None:
        self._subject = subject
        self._say = say
        self._clock = clock
        self._begin_ns = self._said_ns = clock()
        self._sent = self._ended = self._failed = 0

    def submit(self, number: int, rows: Rows) -> bool:
        taken = self._subject.submit(number, rows)
        self._sent += taken
        return taken

    def poll(self, timeout_s: float) -> list[Done]:
        found = self._subject.poll(timeout_s)
        self._ended += len(found)
        for done in found:
            self._failed += done.status != OK
        if found and (now_ns := self._clock()) - self._said_ns >= EVERY_NS:
            self._said_ns = now_ns
            elapsed_s = (now_ns - self._begin_ns) / 1e9
            under_way = self._sent - self._ended
            self._say(f"{elapsed_s:6.1f} s  {self._ended} ended, {under_way} under way, {self._failed} failed")
        return found

    def close(self) -> None:
        self._subject.close()

"""How a process is told to end, or to read its clients' keys again."""

import signal
from types import FrameType, TracebackType


class StopSignals:
    """While entered, the first SIGTERM or SIGINT asks for a drain and the second ends the process at once.

    With ``reloads``, SIGHUP is noted in ``reload``, for whoever obeys to clear; else it does what it did.
    """

    def __init__(self, *, reloads: bool = False) -> None:
        self.requested = False
        self.reload = False
        self._reloads = reloads
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._stop)
        if self._reloads:
            self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._reload)
        return self

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise SystemExit(128 + number)
        self.requested = True

    def _reload(self, number: int, frame: FrameType | None) -> None:
        self.reload = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

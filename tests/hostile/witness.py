"""A good client while others misbehave: are its scores right, and how long does it wait?"""

import time
from collections import Counter
from collections.abc import Callable

from narsil_client import Client, NarsilError
from narsil_client.arguments import InferArguments
from narsil_graph.model.weights import Model
from narsil_transport.wire import InferRequest
from tests.serving.peers import assert_right, one_hot

ROWS = 4
TIMEOUT_S = 10.0


class Witness:
    """Asks with the client that users have. Wrong scores are an AssertionError; refusals are counted by class."""

    def __init__(self, *endpoints: str, model: Model) -> None:
        self._client = Client(*endpoints, timeout_s=TIMEOUT_S)
        self._model = model
        self._request = one_hot(model, ROWS)
        self.outcomes: Counter[str] = Counter()
        self.waits_s: list[float] = []

    def __enter__(self) -> "Witness":
        self._client.open()
        assert self.ask() == "right"
        # The first one waits for the connection.
        self.waits_s.clear()
        self.outcomes.clear()
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def ask(self) -> str:
        """What came of one request: "right", or the class of its typed failure."""
        begin = time.monotonic()
        try:
            scores = self._client.predict(**arguments(self._request)).scores
        except NarsilError as error:
            outcome = type(error).__name__
        else:
            assert_right(scores, self._model, self._request)
            outcome = "right"
        self.waits_s.append(time.monotonic() - begin)
        self.outcomes[outcome] += 1
        return outcome

    def ask_for(self, seconds: float) -> None:
        """Again and again."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.ask()

    def sees(self, holds: Callable[[], bool], *, within_s: float) -> bool:
        """Whether this holds by then; asks between two looks."""
        until = time.monotonic() + within_s
        while not (held := holds()) and time.monotonic() < until:
            self.ask_for(0.05)
        return held

    def peers(self) -> dict[str, int]:
        """The server's counters of this name."""
        return dict(self._client.metadata().meta["counters"]["peers"])

    def connections(self) -> dict[str, int]:
        """The server's counters of this name."""
        return dict(self._client.metadata().meta["counters"]["connections"])

    def unanswered(self) -> int:
        return self._client.health().inflight

    def saw_only_right_answers(self, *, wait_s_max: float) -> bool:
        assert set(self.outcomes) == {"right"}, self.outcomes
        assert max(self.waits_s) < wait_s_max, max(self.waits_s)
        return True


def arguments(request: InferRequest) -> InferArguments:
    """As `predict` takes them."""
    return {"dense": request.dense, "ids": request.ids}

"""What a prediction returns."""

from dataclasses import dataclass

from narsil_client.call import Call
from narsil_transport.messages import Floats, ScoresReply, StageTimes


@dataclass(slots=True, eq=False)
class Scores:
    """The scores of one request, and where its time went.

    scores float32 [n], read-only. `bucket_rows` is the batch size it was computed in, `rows_filled` how many of those
    rows were real. `times` are the server's, in microseconds; `round_trip_us` is the client's, from handing the
    request to the socket to reading the reply. `variant` names the model that scored it, of a server with several.
    """

    scores: Floats
    version: str
    bucket_rows: int
    rows_filled: int
    times: StageTimes
    round_trip_us: float
    variant: str | None = None


def scores_of(call: Call[ScoresReply]) -> Scores:
    """The result of a call that is done. Raises its NarsilError if it failed."""
    reply = call.answer()
    round_trip_us = (call.finished_ns - call.begun_ns) / 1000
    return Scores(
        reply.scores, reply.version, reply.bucket_rows, reply.rows_filled, reply.times, round_trip_us, reply.variant
    )

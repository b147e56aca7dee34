"""Scores of a launch back to the requests that its rows came from; split requests are joined."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narsil_transport.admission import Admitted
from narsil_transport.batcher import Batch

Scores = NDArray[np.float32]


@dataclass(slots=True)
class Finished:
    """A request whose every row has been scored: f4 [rows], which may lie in the slot until its next launch."""

    admitted: Admitted
    scores: Scores


class Scatter:
    """Holds the scores of requests that were split over several launches until the last piece is in."""

    def __init__(self) -> None:
        self._joining: dict[int, tuple[Scores, int]] = {}

    def split(self, batch: Batch, scores: Scores) -> list[Finished]:
        """The requests that ``batch`` finishes, given the launch's scores f4 [>= batch rows]."""
        finished: list[Finished] = []
        row = 0
        for piece in batch.pieces:
            rows = piece.end - piece.begin
            part = scores[row : row + rows]
            row += rows
            admitted = piece.admitted
            if rows == admitted.request.rows:
                finished.append(Finished(admitted, part))
                continue
            if id(admitted) not in self._joining:
                self._joining[id(admitted)] = (np.empty(admitted.request.rows, np.float32), admitted.request.rows)
            joined, missing = self._joining.pop(id(admitted))
            joined[piece.begin : piece.end] = part
            if missing == rows:
                finished.append(Finished(admitted, joined))
            else:
                # The id stays unique: the batcher, or a launch in flight, holds the request until its last piece is in.
                self._joining[id(admitted)] = (joined, missing - rows)
        return finished

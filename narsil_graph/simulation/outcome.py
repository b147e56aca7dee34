"""What a simulation found, request by request and launch by launch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from narsil_graph.simulation.arrivals import Int64s

REQUEST_DTYPE = np.dtype(
    [
        ("arrival_ns", "<i8"),
        ("received_ns", "<i8"),
        ("answered_ns", "<i8"),
        ("rows", "<i4"),
        ("deadline_us", "<i4"),
        ("status", "u1"),
        ("bulk", "?"),
    ]
)
LAUNCH_DTYPE = np.dtype(
    [
        ("begin_ns", "<i8"),
        ("end_ns", "<i8"),
        ("bucket_rows", "<i4"),
        ("rows", "<i4"),
        ("pieces", "<i4"),
        ("lane", "<i4"),
    ]
)
Records = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """`requests` of `REQUEST_DTYPE` in order of arrival and `launches` of `LAUNCH_DTYPE` in order of beginning.

    `arrival_ns` is when a request lay in the socket, `received_ns` when the loop took it up, from where its deadline
    counts, and `answered_ns` when its reply, of that `Status`, was sent.
    """

    requests: Records
    launches: Records
    lanes: int

    @property
    def latency_ns(self) -> Int64s:
        """int64 [requests], from arrival to reply: what a client sees, but for the network."""
        return self._since("arrival_ns")

    @property
    def server_ns(self) -> Int64s:
        """int64 [requests], from receipt to reply: what the server can see, and what its traces hold."""
        return self._since("received_ns")

    def _since(self, name: str) -> Int64s:
        found: Int64s = self.requests["answered_ns"] - self.requests[name]
        return found


def merged(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of servers beside each other, their lanes numbered through."""
    launches: list[Records] = []
    lanes = 0
    for outcome in outcomes:
        shifted = outcome.launches.copy()
        shifted["lane"] += lanes
        launches.append(shifted)
        lanes += outcome.lanes
    return Outcome(
        in_order(np.concatenate([outcome.requests for outcome in outcomes]), "arrival_ns"),
        in_order(np.concatenate(launches), "begin_ns"),
        lanes,
    )


def in_order(records: Records, name: str) -> Records:
    """By that field; equal ones stay as they are."""
    return records[np.argsort(records[name], kind="stable")]

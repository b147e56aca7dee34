"""The Python client of narsil-graph, free of torch.

`Client` blocks, `AsyncClient` is for asyncio; both are thin layers over `session.Session`, which has no socket and no
clock, and `links.Links`, which has the sockets. What a request can fail with is in `errors`: everything is a
NarsilError, a server's refusal a Refused.
"""

from narsil_client.aio import AsyncClient, AsyncPending
from narsil_client.arguments import User
from narsil_client.client import Client, Pending
from narsil_client.curve import Curve
from narsil_client.errors import (
    Cancelled,
    ClientClosed,
    DeadlineExceeded,
    Draining,
    HandshakeRefused,
    InvalidRequest,
    NarsilError,
    NotFinite,
    OutOfRange,
    Overloaded,
    Refused,
    RequestTimeout,
    ServerError,
    ServerLost,
    ServerUnreachable,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnknownModel,
    Unsupported,
    WouldMiss,
)
from narsil_client.scores import Scores
from narsil_transport.messages import HealthReply, HealthState, MetadataReply, StageTimes
from narsil_transport.status import Status

__all__ = [
    "AsyncClient",
    "AsyncPending",
    "Cancelled",
    "Client",
    "ClientClosed",
    "Curve",
    "DeadlineExceeded",
    "Draining",
    "HandshakeRefused",
    "HealthReply",
    "HealthState",
    "InvalidRequest",
    "MetadataReply",
    "NarsilError",
    "NotFinite",
    "OutOfRange",
    "Overloaded",
    "Pending",
    "Refused",
    "RequestTimeout",
    "Scores",
    "ServerError",
    "ServerLost",
    "ServerUnreachable",
    "StageTimes",
    "Status",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "UnknownModel",
    "Unsupported",
    "User",
    "WouldMiss",
]

"""How many connections there are, by the events alone."""

import pytest
import zmq

from narsil_transport.connections import Connections

# No descriptor of this process: to cut it does nothing.
NONE = 1 << 20


def test_connections_are_counted_by_their_descriptors() -> None:
    connections = Connections(10)
    for descriptor in (NONE, NONE + 1):
        connections.note(zmq.EVENT_ACCEPTED, descriptor)
    connections.note(zmq.EVENT_DISCONNECTED, NONE)
    connections.note(zmq.EVENT_DISCONNECTED, NONE)
    assert connections.count == 1


def test_refused_handshake_is_counted_and_is_no_connection() -> None:
    connections = Connections(10)
    connections.note(zmq.EVENT_HANDSHAKE_FAILED_AUTH, 400)
    assert (connections.count, connections.handshakes_failed) == (0, 1)


def test_maximum_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="want at least 1 connection, got 0"):
        Connections(0)

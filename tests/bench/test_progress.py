"""What a watcher is told."""

from narsil_graph.bench.driver import closed_loop
from narsil_graph.bench.progress import Watched
from tests.bench.virtual_server import MS, POOL, VirtualServer


def test_progress_is_said_twice_a_second() -> None:
    said: list[str] = []
    server = VirtualServer(service_ns=MS, refused=frozenset({3}))
    log = closed_loop(Watched(server, said.append, server.clock), POOL, 2, 2.2, clock=server.clock)
    assert len(said) == 4
    assert said[0] == "   0.5 s  500 ended, 1 under way, 1 failed"
    assert len(log) == len(server.asked)


def test_watched_subject_that_has_no_room_says_so() -> None:
    server = VirtualServer(room=1)
    watched = Watched(server, lambda text: None, server.clock)
    assert watched.submit(0, POOL[0])
    assert not watched.submit(1, POOL[1])


def test_closing_closes_the_subject() -> None:
    server = VirtualServer()
    server.submit(0, POOL[0])
    Watched(server, lambda text: None, server.clock).close()
    assert not server.due

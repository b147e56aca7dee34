"""What leaves this machine needs CURVE or the user's word; what cannot be judged is taken to leave it."""

import pytest
import zmq

from narsil_graph.bind_check import check_bind, check_libzmq
from narsil_graph.errors import Failure, UsageFailure

LOCAL = [
    "tcp://127.0.0.1:5555",
    "tcp://127.0.0.1:*",
    "tcp://127.1.2.3:5555",
    "tcp://[::1]:5555",
    "tcp://localhost:5555",
    "ipc:///tmp/s",
    "ipc://@abstract",
    "inproc://s",
]
REMOTE = [
    "tcp://*:5555",
    "tcp://0.0.0.0:5555",
    "tcp://[::]:5555",
    "tcp://10.0.0.1:5555",
    "tcp://128.0.0.1:5555",
    "tcp://[fe80::1%eth0]:5555",
    "tcp://eth0:5555",
    "tcp://lo:5555",
    "tcp://localhost.example.org:5555",
    "tcp://127.0.0.1.example.org:5555",
    "tcp://127.0.0.1;0.0.0.0:5555",
    "tcp://:5555",
    "tcp://127.0.0.1",
    "ws://127.0.0.1:5555",
    "vsock://1:5555",
    "TCP://127.0.0.1:5555",
]


@pytest.mark.parametrize("bind", LOCAL)
def test_what_stays_on_this_machine_needs_nothing(bind: str) -> None:
    check_bind(bind, curve=False, insecure=False)


@pytest.mark.parametrize("bind", REMOTE)
def test_what_may_leave_this_machine_is_refused(bind: str) -> None:
    with pytest.raises(UsageFailure) as refused:
        check_bind(bind, curve=False, insecure=False)
    assert str(refused.value) == (
        f"--bind {bind} can be reached from other machines, by anybody: give --curve-secret-key and "
        "--authorized-clients, bind to 127.0.0.1 or ipc, or say --insecure-bind"
    )


@pytest.mark.parametrize("bind", REMOTE)
def test_curve_or_the_users_word_allows_it(bind: str) -> None:
    check_bind(bind, curve=True, insecure=False)
    check_bind(bind, curve=False, insecure=True)


def test_malformed_endpoint_is_left_to_bind() -> None:
    check_bind("nonsense", curve=False, insecure=False)


def test_installed_libzmq_is_new_enough() -> None:
    check_libzmq()


@pytest.mark.parametrize(
    ("version", "refused"), [((4, 3, 3), True), ((4, 2, 5), True), ((4, 3, 4), False), ((4, 10, 0), False)]
)
def test_libzmq_with_known_holes_is_refused(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], refused: bool
) -> None:
    text = ".".join(map(str, version))
    monkeypatch.setattr(zmq, "zmq_version_info", lambda: version)
    monkeypatch.setattr(zmq, "zmq_version", lambda: text)
    if refused:
        with pytest.raises(Failure, match=rf"^libzmq {text} has holes that 4\.3\.4 closed: install a newer pyzmq$"):
            check_libzmq()
    else:
        check_libzmq()

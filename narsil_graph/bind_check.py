"""What must hold before a socket is bound: who can reach it, and which libzmq it runs on."""

from ipaddress import ip_address

import zmq

from narsil_graph.errors import Failure, UsageFailure

# 4.3.3 and 4.3.4 closed what a stranger could do to a server before any handshake (CVE-2020-15166 and its four kin).
LIBZMQ_OLDEST = (4, 3, 4)


def check_bind(bind: str, *, curve: bool, insecure: bool) -> None:
    """UsageFailure where `bind` can be reached from other machines, and neither CURVE nor the user's word allows it.

    What is not known to stay on this machine (interface names, tcp://*) is taken to leave it. A malformed endpoint is
    refused by whoever binds it.
    """
    transport, separator, address = bind.partition("://")
    local = transport in ("ipc", "inproc") or (transport == "tcp" and is_loopback(address.rpartition(":")[0]))
    if separator and not (local or curve or insecure):
        raise UsageFailure(
            f"--bind {bind} can be reached from other machines, by anybody: give --curve-secret-key and "
            "--authorized-clients, bind to 127.0.0.1 or ipc, or say --insecure-bind"
        )


def check_libzmq() -> None:
    """Failure where the installed libzmq is one that strangers can crash."""
    if zmq.zmq_version_info() < LIBZMQ_OLDEST:
        oldest = ".".join(map(str, LIBZMQ_OLDEST))
        raise Failure(f"libzmq {zmq.zmq_version()} has holes that {oldest} closed: install a newer pyzmq")


def is_loopback(host: str) -> bool:
    """Whether `host` is surely this machine; names other than localhost are not looked up."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False

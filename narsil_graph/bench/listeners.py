"""Who listens at an endpoint of this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

from narsil_graph.bind_check import is_loopback

PROC = Path("/proc")
# Columns of /proc/net/tcp and of /proc/net/unix, and what says there that a socket listens.
TCP_LOCAL, TCP_STATE, TCP_INODE, TCP_LISTENS = 1, 3, 9, "0A"
UNIX_FLAGS, UNIX_INODE, UNIX_PATH, UNIX_LISTENS = 3, 6, 7, 1 << 16


def listeners(*endpoints: str) -> tuple[int, ...]:
    """The processes that listen at ``ipc://PATH`` or at a port of the loopback, of those that this user may look into.

    None of an endpoint that may be another machine's.
    """
    inodes = {inode for endpoint in endpoints for inode in _inodes(endpoint)}
    return tuple(sorted(pid for pid in _pids() if not inodes.isdisjoint(_sockets(pid))))


def _inodes(endpoint: str) -> Iterator[str]:
    transport, _, address = endpoint.partition("://")
    host, _, port = address.rpartition(":")
    if transport == "ipc":
        yield from _at_path(address)
    elif transport == "tcp" and is_loopback(host) and port.isdecimal():
        yield from _at_port(int(port))


def _at_path(path: str) -> Iterator[str]:
    wanted = path if path.startswith("@") else os.path.realpath(path)
    for line in _lines("unix"):
        fields = line.split(maxsplit=UNIX_PATH)
        if len(fields) > UNIX_PATH and int(fields[UNIX_FLAGS], 16) & UNIX_LISTENS:
            found = fields[UNIX_PATH].rstrip()
            if wanted == (found if found.startswith("@") else os.path.realpath(found)):
                yield fields[UNIX_INODE]


def _at_port(port: int) -> Iterator[str]:
    for line in (*_lines("tcp"), *_lines("tcp6")):
        fields = line.split()
        if fields[TCP_STATE] == TCP_LISTENS and int(fields[TCP_LOCAL].rpartition(":")[2], 16) == port:
            yield fields[TCP_INODE]


def _lines(table: str) -> list[str]:
    """Without the heading; none where the system has no such sockets."""
    try:
        return (PROC / "net" / table).read_text().splitlines()[1:]
    except OSError:
        return []


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal())


def _sockets(pid: int) -> Iterator[str]:
    """The inodes of the sockets that it has open."""
    folder = PROC / str(pid) / "fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        try:
            target = os.readlink(folder / name)
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]

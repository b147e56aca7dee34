"""The server's socket as configured: who may reach it, and how much of it any of them gets."""

import resource
from dataclasses import dataclass
from pathlib import Path

from narsil_graph.bind_check import check_bind
from narsil_graph.errors import UsageFailure
from narsil_graph.memory_watch import REFUSE_FRACTION, MemoryWatch, resident_bytes, trim
from narsil_transport.curve import CurveServer
from narsil_transport.keys import KeyFileError
from narsil_transport.router import BindError, Router
from narsil_transport.segments import Segments
from narsil_transport.wire import TENSORS_MAX

# Descriptors beside the connections: libzmq's own, libraries, files.
DESCRIPTORS_OTHER = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenConfig:
    """What `narsil-graph serve` is told of its socket; a UsageFailure where that would open it to anybody."""

    bind: str
    window: int
    connections_max: int
    zmq_io_threads: int
    memory_max: int | None
    """MiB."""
    insecure_bind: bool
    shm: bool
    curve_secret_key: Path | None
    authorized_clients: Path | None

    def __post_init__(self) -> None:
        if (self.curve_secret_key is None) != (self.authorized_clients is None):
            raise UsageFailure("--curve-secret-key and --authorized-clients want each other: give both or neither")
        if self.shm and not self.bind.startswith("ipc://"):
            raise UsageFailure(f"--shm is for clients on this machine: it wants --bind ipc://PATH, got {self.bind}")
        check_bind(self.bind, curve=self.curve_secret_key is not None, insecure=self.insecure_bind)

    def security(self) -> CurveServer | None:
        """Who may connect, as their files say now; None where anybody may."""
        if self.curve_secret_key is None or self.authorized_clients is None:
            return None
        try:
            return CurveServer.read(secret_key_file=self.curve_secret_key, authorized_clients=self.authorized_clients)
        except KeyFileError as error:
            raise UsageFailure(str(error)) from None

    def router(self, *, frames_bytes_max: int, receive_max: int, security: CurveServer | None) -> Router:
        """The router, not yet open. A UsageFailure where this process may not have as many connections."""
        wanted = self.connections_max + DESCRIPTORS_OTHER
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            if hard != resource.RLIM_INFINITY and hard < wanted:
                raise UsageFailure(
                    f"--connections-max {self.connections_max} needs {wanted} open files, this process may have {hard}"
                )
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return Router(
            bind=self.bind,
            frames_bytes_max=frames_bytes_max,
            receive_max=receive_max,
            window=self.window,
            connections_max=self.connections_max,
            io_threads=self.zmq_io_threads,
            security=security,
        )

    def segments(self, frames_bytes_max: int) -> Segments | None:
        """The shared memory of clients, or None where it is not offered: no more of a request than in frames."""
        return Segments(TENSORS_MAX * frames_bytes_max) if self.shm else None

    def memory_watch(self) -> MemoryWatch | None:
        """The watch over this process as it is now, or None where memory is not limited.

        A UsageFailure where the server would refuse everything from its start.
        """
        if self.memory_max is None:
            return None
        limit_bytes, resident = self.memory_max * 2**20, resident_bytes()
        if resident >= limit_bytes * REFUSE_FRACTION:
            raise UsageFailure(
                f"--memory-max {self.memory_max}: the server has {resident / 2**20:.0f} MiB before its first request, "
                f"and refuses from {REFUSE_FRACTION:.0%} of the limit on"
            )
        return MemoryWatch(limit_bytes, resident_bytes=resident_bytes, trim=trim)


def opened(router: Router) -> None:
    """Bind; a UsageFailure says why not."""
    try:
        router.open()
    except BindError as refused:
        raise UsageFailure(str(refused)) from None

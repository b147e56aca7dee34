"""The file of an ipc endpoint."""

from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket


def ipc_file(endpoint: str) -> Path | None:
    """The file that an ipc endpoint names; abstract names and libzmq's own choice ("*") have none of ours."""
    path = endpoint.removeprefix("ipc://")
    return None if path == endpoint or path.startswith(("@", "*")) else Path(path)


def listens(path: Path) -> bool:
    """Whether a server lives there: libzmq would take the path over, and that server would hear nothing more."""
    with socket(AF_UNIX, SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True

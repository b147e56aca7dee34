"""How a watcher learns that requests are served: a line on standard output, and a file."""

import sys
from pathlib import Path

from narsil_graph.errors import Failure


def tell_ready(line: str, path: Path | None) -> None:
    """Print ``line`` and put it at ``path`` in one step each, so that no one reads half. A Failure if it cannot be."""
    # print would make two writes of an unbuffered stream, between which another worker's line could come.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    if path is None:
        return
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(line + "\n")
        partial.replace(path)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None

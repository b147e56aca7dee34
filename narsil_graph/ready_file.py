"""The file by which a watcher learns that requests are served."""

from pathlib import Path

from narsil_graph.errors import Failure


def write_ready(path: Path, line: str) -> None:
    """Put ``line`` at ``path`` in one step, so that a watcher never reads half of it. A Failure if it cannot be."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(line + "\n")
        partial.replace(path)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None

"""The `narsil-graph` command. A base install has the client only, and says what to install for the rest."""

import os
import sys


def main() -> None:
    """Run the command line; a Failure is one sentence on standard error and its exit code."""
    try:
        from narsil_graph.cli import cli
    except ModuleNotFoundError as missing:
        if missing.name != "click":
            raise
        sys.exit("narsil-graph: this install has the client only: pip install 'narsil-graph[cpu]' (or [cuda])")
    from narsil_graph.errors import Failure

    try:
        cli()
    except Failure as failure:
        print(f"narsil-graph: {failure}", file=sys.stderr, flush=True)
        if failure.leaves_at_once:
            os._exit(failure.exit_code)
        sys.exit(failure.exit_code)


if __name__ == "__main__":
    main()

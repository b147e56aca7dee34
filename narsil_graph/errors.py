"""Failures that a person can act on: one sentence, an exit code, no traceback."""


class Failure(Exception):
    """The command cannot do what was asked."""

    exit_code = 1
    leaves_at_once = False
    """Whether the process ends without tidying up: what would be tidied is lost, and could block."""


class UsageFailure(Failure):
    """The command was asked wrongly: a flag, a file key, a port in use."""

    exit_code = 2

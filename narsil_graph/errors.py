"""Failures that a person can act on: one sentence, an exit code, no traceback."""


class Failure(Exception):
    """The command cannot do what was asked."""

    exit_code = 1


class UsageFailure(Failure):
    """The command was asked wrongly: a flag, a file key, a port in use."""

    exit_code = 2

"""Failures with a reason for the user. docs/reliability.md lists the exit codes."""


class MarsError(Exception):
    """A failure with a reason for the user. `exit_code` is the process' exit code (docs/reliability.md)."""

    exit_code = 1


class ConfigError(MarsError):
    exit_code = 2


class DataError(MarsError):
    exit_code = 3


class SetupError(MarsError):
    """Something the machine lacks: a GPU, a port, a package."""

    exit_code = 4


class WorkerError(MarsError):
    exit_code = 5


class NumericalError(MarsError):
    exit_code = 6

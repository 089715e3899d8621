"""Errors that a user can act on. Each class has its own exit code (docs/reliability.md)."""


class MarsError(Exception):
    """Base class. The message says what is wrong and what to do; the process exits with `exit_code`."""

    exit_code = 1


class ConfigError(MarsError):
    """A setting is wrong, or a user's function cannot be loaded."""

    exit_code = 2


class DataError(MarsError):
    """A row, an image or a file cannot be used."""

    exit_code = 3


class SetupError(MarsError):
    """The machine or cluster lacks something: a GPU, a port, a package, write access."""

    exit_code = 4


class WorkerError(MarsError):
    """A worker process died, raised an unexpected error, or missed a deadline."""

    exit_code = 5


class NumericalError(MarsError):
    """Losses or gradients were not finite, and training cannot go on."""

    exit_code = 6


class InterruptedRun(MarsError):
    """SIGTERM, SIGHUP or Ctrl-C ended the process. A second Ctrl-C ends it at once, with exit code 130."""

    exit_code = 75

"""Errors that a user can act on. Each direct subclass of MarsError has its own exit code (docs/reliability.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


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
    """The machine or cluster lacks something (a GPU, a port, a package, write access), or a model file is unusable."""

    exit_code = 4


class WorkerError(MarsError):
    """A worker process died, raised an unexpected error, or missed a deadline."""

    exit_code = 5


class WorkerLost(WorkerError):
    """A worker process died or did not answer in time. Another one can take its place."""


class TransferError(WorkerError):
    """The weights did not arrive whole, because another process of the transfer failed. This process can try again."""


class NumericalError(MarsError):
    """Losses or gradients were not finite, and training cannot go on.

    skipped: the updates that the failed call of `PolicyTrainer.update` (mars/actor/trainer.py) skipped.
    """

    exit_code = 6

    def __init__(self, message: str, skipped: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.skipped = skipped


class InterruptedRun(MarsError):
    """SIGTERM, SIGHUP or Ctrl-C ended the process. A second Ctrl-C ends it at once, with exit code 130."""

    exit_code = 75


class StalledError(MarsError):
    """The run made no progress for cluster.watchdog_s seconds."""

    exit_code = 8


class CheckpointError(MarsError):
    """A checkpoint is damaged, does not belong to this run, or cannot be written."""

    exit_code = 7


class UnreadableCheckpoint(CheckpointError):
    """A checkpoint cannot be read at the moment, or not by this version of mars. It may be undamaged."""


class BusyError(MarsError):
    """Another process is writing to the run directory."""

    exit_code = 73


class LostContact(MarsError):
    """The job server of a cluster does not answer any more, so the state of the job is not known."""

    exit_code = 69

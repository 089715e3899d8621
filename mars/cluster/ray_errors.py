"""Errors of Ray's calls as errors of mars, in a few words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayError, RayTaskError

from mars.errors import MarsError, WorkerError, WorkerLost
from mars.output.text import shorten

_REASON_CHARS = 500


class WorkerDied(WorkerLost):
    """The process of a worker has died on this machine. index: of the worker in its group."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


@contextmanager
def as_mars_errors(describe: Callable[[str], str], deadline: float) -> Iterator[None]:
    """Raise Ray's errors in the block as MarsErrors. describe: a reason -> the message. deadline: of the call, in
    seconds."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, MarsError):
            raise error.cause from error
        raise WorkerError(describe(one_line(error.cause))) from error
    except GetTimeoutError as error:
        raise WorkerLost(describe(f"no answer within {deadline:g} s")) from error
    except RayError as error:
        raise WorkerLost(describe(reason_of_loss(error))) from error


def one_line(error: BaseException) -> str:
    """Type of an exception and the first line of its message. The line is cut to 500 characters."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {shorten(lines[0], _REASON_CHARS) if lines else 'no message'}"


def reason_of_loss(error: RayError) -> str:
    """A short reason. Ray describes a dead worker in ten lines, which are in the log of the run."""
    pid = re.search(r"\bpid: (\d+)", str(error))
    what = "a worker process died" + (f" (process {pid[1]})" if pid else "")
    return f"{what}: Ray ended it, because the machine ran out of memory" if _out_of_memory(error) else what


def _out_of_memory(error: RayError) -> bool:
    return isinstance(error, OutOfMemoryError) or "running low on memory" in str(error)

"""Errors of Ray's calls in a few words, for messages."""

from __future__ import annotations

import re

from ray.exceptions import OutOfMemoryError, RayError

from mars.output.text import shorten

_REASON_CHARS = 500


def one_line(error: BaseException) -> str:
    """Type and first line of an exception; the whole of it is in the log of the run."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {shorten(lines[0], _REASON_CHARS) if lines else 'no message'}"


def reason_of_loss(error: RayError) -> str:
    """Ray describes a dead worker in ten lines, which are in the log of the run."""
    pid = re.search(r"\bpid: (\d+)", str(error))
    what = "a worker process died" + (f" (process {pid[1]})" if pid else "")
    return f"{what}: Ray ended it, because the machine ran out of memory" if _out_of_memory(error) else what


def _out_of_memory(error: RayError) -> bool:
    return isinstance(error, OutOfMemoryError) or "running low on memory" in str(error)

"""Which process it was: a host, a pid and the time at which it started, because systems give pids out again."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import psutil

# The start of a process is derived from the system's boot time, which moves a little when the clock is corrected.
_TOLERANCE_S = 2.0


@dataclass(frozen=True)
class ProcessId:
    """started: seconds since 1970."""

    host: str
    pid: int
    started: float

    def is_here(self) -> bool:
        """Whether it ran on this machine, so that `is_alive` can tell."""
        return self.host == socket.gethostname()

    def is_alive(self) -> bool:
        """Whether the process still runs on this machine. One that has ended and was not waited for does not."""
        try:
            process = psutil.Process(self.pid)
            ended = process.status() == psutil.STATUS_ZOMBIE
            return not ended and abs(process.create_time() - self.started) < _TOLERANCE_S
        except psutil.Error:
            return False


def this_process() -> ProcessId:
    return process_id(psutil.Process(os.getpid()))


def process_id(process: psutil.Process) -> ProcessId:
    """Raises psutil.Error if the process is gone."""
    return ProcessId(socket.gethostname(), process.pid, round(process.create_time(), 2))


def process_from(content: object) -> ProcessId | None:
    """The ProcessId that `asdict` turned into `content`; None if `content` is anything else."""
    if not isinstance(content, dict):
        return None
    host, pid, started = (content.get(name) for name in ("host", "pid", "started"))
    if not isinstance(host, str) or type(pid) is not int or pid <= 0 or type(started) not in (int, float):
        return None
    return ProcessId(host, pid, float(started))

"""Identifies a process by host, pid and start time, because systems use pids again."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

# Added to a worker's name. Each worker has its own file, because lines get mixed up if several hosts append to one.
_WORKER_FILE = ".processes.jsonl"

# The start of a process is computed from the boot time, which changes a little when the clock is corrected.
_TOLERANCE_S = 2.0


@dataclass(frozen=True)
class ProcessId:
    """started: seconds since 1970."""

    host: str
    pid: int
    started: float

    def is_here(self) -> bool:
        """Whether the process was started on this machine. Only then does `is_alive` give a meaningful answer."""
        return self.host == socket.gethostname()

    def is_same(self, other: ProcessId) -> bool:
        return (self.host, self.pid) == (other.host, other.pid) and abs(self.started - other.started) < _TOLERANCE_S

    def is_alive(self) -> bool:
        """Whether the process is still running on this machine. False for a zombie."""
        try:
            process = psutil.Process(self.pid)
            ended = process.status() == psutil.STATUS_ZOMBIE
            return not ended and abs(process.create_time() - self.started) < _TOLERANCE_S
        except psutil.Error:
            return False


def this_process() -> ProcessId:
    return process_id(psutil.Process(os.getpid()))


def process_id(process: psutil.Process) -> ProcessId:
    """The ProcessId of a process. Raises psutil.Error if it has ended."""
    return ProcessId(socket.gethostname(), process.pid, round(process.create_time(), 2))


def process_from(content: object) -> ProcessId | None:
    """The ProcessId whose `asdict` is `content`; None for other contents."""
    if not isinstance(content, dict):
        return None
    host, pid, started = (content.get(name) for name in ("host", "pid", "started"))
    if not isinstance(host, str) or type(pid) is not int or pid <= 0 or type(started) not in (int, float):
        return None
    return ProcessId(host, pid, float(started))


def record_worker(folder: Path, name: str) -> None:
    """Record in `folder` that this process is now the worker `name`. A failure is only logged."""
    try:
        with (folder / f"{name}{_WORKER_FILE}").open("a", encoding="ascii") as file:
            file.write(json.dumps(asdict(this_process())) + "\n")
    except OSError as error:
        logger.warning("%s: %s; the process of %s is not recorded", folder, error.strerror, name)


def recorded_workers(folder: Path) -> Iterator[tuple[ProcessId, str]]:
    """(process, worker's name) of each worker process. A replaced process comes before the one that replaced it."""
    for path in sorted(folder.glob(f"*{_WORKER_FILE}")):
        try:
            lines = path.read_bytes().splitlines()
        except OSError:
            continue
        for line in lines:
            try:
                process = process_from(json.loads(line))
            except (ValueError, RecursionError):  # half a line, of a full disk
                continue
            if process is not None:
                yield process, path.name.removesuffix(_WORKER_FILE)

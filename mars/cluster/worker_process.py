"""The operating-system process of a worker, and how to end it, on any node and in any state."""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mars.cluster.ray_errors import one_line

logger = logging.getLogger(__name__)

STACKS_SIGNAL = signal.SIGUSR1
"""Makes a worker write the stacks of its threads to <log_dir>/<name>.stacks.txt."""
_MARK = "MARS_WORKER_PROCESS"
_END_TIMEOUT_S = 10.0
_POLL_S = 0.02


@dataclass(frozen=True)
class WorkerProcess:
    """node: Ray's id of the machine. started: start time in the kernel's ticks, because a pid may be used again."""

    node: str
    pid: int
    started: int


def this_process() -> WorkerProcess:
    pid = os.getpid()
    started = _started(pid) or 0
    os.environ[_MARK] = f"{pid}-{started}"  # what this process starts inherits it
    return WorkerProcess(ray.get_runtime_context().get_node_id(), pid, started)


def has_died(process: WorkerProcess) -> bool:
    """Whether the process was on this machine and is gone."""
    here = process.node == ray.get_runtime_context().get_node_id()
    return here and _started(process.pid) != process.started


def signal_process(process: WorkerProcess, number: int) -> None:
    """Send a signal, if the process still runs and is on this machine."""
    here = process.node == ray.get_runtime_context().get_node_id()
    if here and _started(process.pid) == process.started:
        os.kill(process.pid, number)


class Ending:
    """Kills a process on its node, even a stopped one (SIGSTOP).

    If the process is on this machine, the constructor waits until it is gone, and its GPU free, for at most 10 s. If it
    is on another node, `is_over` says whether it is gone.
    """

    def __init__(self, process: WorkerProcess) -> None:
        self._process, self._task = process, None
        if process.node == ray.get_runtime_context().get_node_id():
            _kill(process.pid, process.started)
            return
        there = NodeAffinitySchedulingStrategy(process.node, soft=False)
        options = {"num_cpus": 0, "scheduling_strategy": there, "max_retries": 0}
        self._task = ray.remote(_kill).options(**options).remote(process.pid, process.started)

    def is_over(self, timeout_s: float = 0.0) -> bool | None:
        """True when the process is gone; False if its node is lost, and the process with it.

        None if the node has not answered after timeout_s.
        """
        if self._task is None:
            return True
        if not ray.wait([self._task], timeout=timeout_s)[0]:
            return None
        try:
            ray.get(self._task)
        except RayError as error:
            logger.debug("node %s of process %d is lost: %s", self._process.node, self._process.pid, one_line(error))
            return False
        return True


def end_this_process() -> NoReturn:
    """End this process, and the processes that it has started."""
    pid = os.getpid()
    for each in _started_by(pid, _started(pid) or 0).keys() - {pid}:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    os._exit(1)


def _kill(pid: int, started: int) -> None:
    """Kill a process and all processes that it has started: those of vLLM, for example, may outlive their engine."""
    end = time.monotonic() + _END_TIMEOUT_S
    doomed = {pid: started} | _started_by(pid, started)
    while time.monotonic() < end:
        alive = [each for each, since in doomed.items() if _started(each) == since]
        if not alive:
            return
        for each in alive:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        time.sleep(_POLL_S)


def _started_by(pid: int, started: int) -> dict[int, int]:
    """pid -> start time, for this user's processes that inherited the variable `_MARK` of the worker `pid`."""
    mark, found = f"{_MARK}={pid}-{started}".encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = mark in (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is another user's
            continue
        since = _started(int(folder.name))
        if marked and since is not None:
            found[int(folder.name)] = since
    return found


def _started(pid: int) -> int | None:
    """The start time, field 22 of /proc/<pid>/stat; None if the process is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # half the time of read_text: waits do this for every worker
            fields = stat.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] == b"Z" else int(fields[19])

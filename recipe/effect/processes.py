"""Run commands in processes, a limited number at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mars.output.files import cannot_write
from mars.output.text import visible

_POLL_S = 0.05
STOP_S = 60.0  # a run that is interrupted saves a checkpoint first
_LOG_LINES = 8
_LOG_BYTES = 8192
# Otherwise the libraries of each process would start one thread for every core of the machine.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Task:
    """A command.

    log: the file for its output. needs: names of tasks that must have succeeded first. before: called just before the
    command is started. after: called when the command has succeeded.
    """

    name: str
    command: Sequence[str]
    log: Path
    needs: Sequence[str] = ()
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None


@dataclass(frozen=True)
class Ended:
    """How a task ended. code: exit code; None if it was not started, because a task in its `needs` has failed."""

    task: Task
    code: int | None
    seconds: float


@dataclass
class _Started:
    task: Task
    process: subprocess.Popen[bytes]
    since: float = field(default_factory=time.monotonic)


def run_tasks(
    tasks: Sequence[Task], jobs: int, folder: Path, environment: Mapping[str, str] = ONE_THREAD
) -> Generator[Ended]:
    """Run tasks, at most `jobs` at a time, and yield how each ended as soon as it has ended.

    Tasks start in order, except that later tasks may start before one that waits for its `needs`. Names in `needs` that
    are not among the tasks are ignored. folder: where the commands start. environment: added to that of this process.

    If the caller stops (an exception such as KeyboardInterrupt, or `close` of the iterator), the processes get SIGTERM
    and STOP_S seconds to end. Raises SetupError if a log cannot be written.
    """
    waiting, running = list(tasks), list[_Started]()
    open_names, failed = {task.name for task in tasks}, set[str]()
    try:
        while waiting or running:
            for task in [task for task in waiting if not failed.isdisjoint(task.needs)]:
                waiting.remove(task)
                open_names.discard(task.name)
                failed.add(task.name)
                yield Ended(task, None, 0.0)
            ready = [task for task in waiting if open_names.isdisjoint(task.needs)]
            for task in ready[: jobs - len(running)]:
                waiting.remove(task)
                if task.before is not None:
                    task.before()
                running.append(_Started(task, _start(task, folder, environment)))
            ended = [started for started in running if started.process.poll() is not None]
            for started in ended:
                running.remove(started)
                open_names.discard(started.task.name)
                if started.process.returncode:
                    failed.add(started.task.name)
                elif started.task.after is not None:
                    started.task.after()
                yield Ended(started.task, started.process.returncode, time.monotonic() - started.since)
            if not ended:
                time.sleep(_POLL_S)
    finally:
        _stop([started.process for started in running])


def last_lines(log: Path) -> str:
    """The end of a log, with control characters escaped."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _LOG_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError as error:
        return f"{log} cannot be read ({error.strerror})"
    return "\n".join(visible(line) for line in text.splitlines()[-_LOG_LINES:])


def _start(task: Task, folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        stream = task.log.open("ab")
    except OSError as error:
        raise cannot_write(task.log, error) from error
    with stream:
        # In a separate session, so that Ctrl-C reaches only this process, which then ends the others in order.
        return subprocess.Popen(
            list(task.command),
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    end = time.monotonic() + STOP_S
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

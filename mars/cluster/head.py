"""Watches Ray's head processes on this machine.

Without this, after one of these processes has died, calls of Ray would wait for a minute, or end the driver without
a message.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

from ray._private import worker

from mars import interrupts
from mars.errors import WorkerError

_HEAD = ("gcs_server", "raylet")
_POLL_S = 0.25
# A signal to the whole process group ends Ray's processes too. Then the run's own handler must report the signal first.
_SIGNAL_FIRST_S = 0.5

_watched: dict[str, Popen[Any]] = {}
_log_dir: Path | None = None


@contextmanager
def watch_head(log_dir: Path | None) -> Iterator[None]:
    """End the process with a WorkerError if a head process of the cluster started here ends during the block.

    An error of a call in progress becomes the WorkerError too.
    """
    global _log_dir
    _log_dir = log_dir
    _watched.update(head_processes())
    over = threading.Event()
    threading.Thread(target=_watch, args=(over,), name="ray-head", daemon=True).start()
    try:
        yield
    except Exception as error:
        _raise_loss(error)
        raise
    finally:
        over.set()
        _watched.clear()


def head_processes() -> dict[str, Popen[Any]]:
    """Name -> process, of Ray's head processes that every call of a worker needs; {} if no cluster was started here."""
    node = worker._global_node
    started = {} if node is None else node.all_processes
    return {name: started[name][0].process for name in _HEAD if name in started}


def check_head() -> None:
    """Call this before each call of Ray. Raises WorkerError if a head process is gone.

    Before it raises, it waits a second, in which the watching thread or a signal may end this process.
    """
    _raise_loss(None)


def _raise_loss(cause: Exception | None) -> None:
    error = _loss()
    if error is not None:
        time.sleep(2 * _SIGNAL_FIRST_S)  # the watching thread, or a signal, ends the process
        raise error from cause


def _loss() -> WorkerError | None:
    for name, process in list(_watched.items()):
        code = process.poll()
        if code is not None:
            where = "" if _log_dir is None else f"; its log is in {_log_dir / 'ray'}"
            return WorkerError(
                f"cluster: Ray's process {name} ({process.pid}) has ended ({_how(code)}), and without it no worker can "
                f"be reached{where}; {interrupts.consequence()}"
            )
    return None


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def _watch(over: threading.Event) -> None:
    ends = select.poll()
    descriptors = [os.pidfd_open(process.pid) for process in _watched.values()]
    for descriptor in descriptors:
        ends.register(descriptor, select.POLLIN)
    try:
        while not over.is_set():
            if not ends.poll(_POLL_S * 1000):
                continue
            error = _loss()
            if error is None:
                continue
            if "SIGKILL" not in str(error):
                time.sleep(_SIGNAL_FIRST_S)
            if not over.is_set():
                interrupts.end_now(error)
            return
    finally:
        for descriptor in descriptors:
            os.close(descriptor)

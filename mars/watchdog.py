"""Ends a run that makes no progress: the stacks of all its processes go to the log, then it exits with code 8.

Progress is a sample that arrives, an answer that is scored, a call to a worker that returns, a stage of a step that
begins or ends: whoever does such work calls `beat`.
"""

from __future__ import annotations

import faulthandler
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mars import interrupts
from mars.errors import StalledError

logger = logging.getLogger(__name__)

_LOOKS_PER_LIMIT = 20


class Watchdog:
    """Knows when there was progress last. clock: seconds, monotonic.

    >>> now = 0.0
    >>> watchdog = Watchdog(limit_s=10.0, clock=lambda: now)
    >>> now = 10.0
    >>> watchdog.overdue()
    False
    >>> now = 10.5
    >>> watchdog.overdue()
    True
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_s = limit_s
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        self._last = self._clock()

    def overdue(self) -> bool:
        return self._clock() - self._last > self.limit_s


_watching: Watchdog | None = None
_dumps: list[Callable[[], None]] = []


def beat() -> None:
    """There was progress. Does nothing outside `watched`."""
    if _watching is not None:
        _watching.beat()


@contextmanager
def on_stall(dump: Callable[[], None]) -> Iterator[None]:
    """Inside the block a stall calls `dump`, which makes other processes write their stacks to their logs."""
    _dumps.append(dump)
    try:
        yield
    finally:
        _dumps.remove(dump)


@contextmanager
def watched(limit_s: float, log_dir: Path, report: Callable[[str], None] = lambda reason: None) -> Iterator[None]:
    """End the process with StalledError if nobody calls `beat` for `limit_s` seconds inside the block.

    The stacks of this process go to <log_dir>/stacks.txt. report: called with the error's text before the end.
    """
    global _watching
    _watching = Watchdog(limit_s)
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(_watching, over, log_dir, report), name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        _watching = None


def _watch(watchdog: Watchdog, over: threading.Event, log_dir: Path, report: Callable[[str], None]) -> None:
    while not over.wait(watchdog.limit_s / _LOOKS_PER_LIMIT):
        if watchdog.overdue():
            _dump_all(log_dir)
            error = StalledError(
                f"no progress for {watchdog.limit_s:g} s (cluster.watchdog_s): what every process was doing is in "
                f"{log_dir}; go on with run.resume=true"
            )
            report(str(error))
            interrupts.end_now(error)
            return


def _dump_all(log_dir: Path) -> None:
    for dump in _dumps:
        try:
            dump()
        except Exception:
            logger.debug("the stacks of some workers could not be asked for", exc_info=True)
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
        with (log_dir / "stacks.txt").open("a") as file:
            faulthandler.dump_traceback(file, all_threads=True)
    except OSError as error:
        logger.debug("the stacks of this process could not be written: %s", error)

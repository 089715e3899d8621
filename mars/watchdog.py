"""Ends a run that makes no progress, with exit code 8. Before that, the driver and the workers on its machine write
their stacks to files beside the logs.

Progress is: a sample arrives, an answer is scored, a call to a worker returns, or a stage of a step begins or ends. The
code that does this work calls `beat` or `stage`.
"""

from __future__ import annotations

import faulthandler
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mars import interrupts
from mars.errors import StalledError

logger = logging.getLogger(__name__)

_LOOKS_PER_LIMIT = 20
_NOTE_S = 5.0
"""Longest time between two notes of what the run does."""


@dataclass(frozen=True)
class Activity:
    """What a run does at a moment. All numbers are seconds before this moment.

    stages: (name, time of its begin) of the stages that are not over, in the order in which they began. There are two
    at once if one is inside the other, or if rollouts are sampled during an update.
    progress_s: the last progress. answered_s: worker -> the last time that a call to it returned or a sample came from
    it.
    """

    stages: tuple[tuple[str, float], ...]
    progress_s: float
    answered_s: Mapping[str, float]


class Watchdog:
    """Knows the time of the last progress, and the open stages. Any thread may use it. clock: seconds, monotonic.

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
        self._stages: list[tuple[str, float]] = []
        self._answered: dict[str, float] = {}

    def beat(self, worker: str | None = None) -> None:
        """Note progress. worker: name of the worker that has answered, else None."""
        self._last = self._clock()
        if worker is not None:
            self._answered[worker] = self._last

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The block is a stage of the run's work."""
        self.beat()
        entry = (name, self._last)
        self._stages.append(entry)
        try:
            yield
        finally:
            self._stages.remove(entry)
            self.beat()

    def activity(self) -> Activity:
        """
        >>> now = 0.0
        >>> watchdog = Watchdog(limit_s=10.0, clock=lambda: now)
        >>> watchdog.beat("engine-0")
        >>> with watchdog.stage("gen"):
        ...     now = 3.0
        ...     watchdog.activity()
        Activity(stages=(('gen', 3.0),), progress_s=3.0, answered_s={'engine-0': 3.0})
        """
        stages, answered, now = list(self._stages), dict(self._answered), self._clock()
        since = {worker: now - last for worker, last in answered.items()}
        return Activity(tuple((name, now - begun) for name, begun in stages), now - self._last, since)

    def overdue(self) -> bool:
        return self._clock() - self._last > self.limit_s


_watching: Watchdog | None = None
_dumps: list[Callable[[], None]] = []


def beat(worker: str | None = None) -> None:
    """Note progress. worker: name of the worker that has answered, else None. Does nothing outside `watched`."""
    if _watching is not None:
        _watching.beat(worker)


def stage(name: str) -> AbstractContextManager[None]:
    """The block is a stage of the run's work. Does nothing outside `watched`."""
    return nullcontext() if _watching is None else _watching.stage(name)


def activity() -> Activity | None:
    """What the run does now; None outside `watched`."""
    return None if _watching is None else _watching.activity()


@contextmanager
def on_stall(dump: Callable[[], None]) -> Iterator[None]:
    """During the block, a stall calls `dump`, which makes other processes write their stacks to their logs."""
    _dumps.append(dump)
    try:
        yield
    finally:
        _dumps.remove(dump)


@contextmanager
def watched(
    limit_s: float,
    log_dir: Path,
    note: Callable[[Activity], None] = lambda activity: None,
) -> Iterator[None]:
    """End the process with StalledError if the block makes no progress (`beat`, `stage`) for `limit_s` seconds.

    The stacks of this process go to <log_dir>/stacks.txt. note: called when the block begins, every few seconds, and
    when it ends, in another thread; it must not raise.
    """
    global _watching
    _watching = Watchdog(limit_s)
    over = threading.Event()
    works = {
        "watchdog": partial(_watch, _watching, over, log_dir),
        "activity": partial(_keep_noting, _watching, over, note),
    }
    for name, work in works.items():
        threading.Thread(target=work, name=name, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        _watching = None


def _keep_noting(watchdog: Watchdog, over: threading.Event, note: Callable[[Activity], None]) -> None:
    """Runs in a thread of its own, so that a stall is found even while `note` waits for a disk."""
    note(watchdog.activity())
    while not over.wait(_NOTE_S):
        note(watchdog.activity())
    note(watchdog.activity())


def _watch(watchdog: Watchdog, over: threading.Event, log_dir: Path) -> None:
    while not over.wait(watchdog.limit_s / _LOOKS_PER_LIMIT):
        if watchdog.overdue():
            _dump_all(log_dir)
            interrupts.end_now(
                StalledError(
                    f"no progress for {watchdog.limit_s:g} s (cluster.watchdog_s): what every process was doing is in "
                    f"{log_dir}; {interrupts.consequence()}"
                )
            )
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

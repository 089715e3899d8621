"""The calls of a worker's generator method, one after the other."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_UNDER_WAY = 2


class CallQueue:
    """The calls of one worker that have not ended, each as the Ray stream of its answers.

    They are at most two: the call that the worker answers, and the next, which waits in the actor's queue.

    call: makes a call with one of `arguments`, and returns the stream of the call's answers.
    """

    def __init__(self, call: Callable[[Any], Any], arguments: Iterable[Any]) -> None:
        self._call, self._arguments = call, iter(arguments)
        self._streams: deque[Any] = deque()
        self._fill()

    @property
    def stream(self) -> Any | None:
        """The stream of the first call that has not ended; None if all have ended."""
        return self._streams[0] if self._streams else None

    def ended(self) -> None:
        """Call it when the first stream has no more items."""
        self._streams.popleft()
        self._fill()

    @property
    def under_way(self) -> list[Any]:
        """The streams that have not ended, in the order of their calls."""
        return list(self._streams)

    def _fill(self) -> None:
        for argument in self._arguments:
            self._streams.append(self._call(argument))
            if len(self._streams) == _UNDER_WAY:
                break


@contextmanager
def left_by_none(queues: Sequence[CallQueue], cancel: Callable[[int, list[Any]], None]) -> Iterator[None]:
    """At the end of the block, cancel all calls that have not ended. cancel: called with (number of the queue,
    streams).

    queues: read at the end of the block, so the block may replace queues in this sequence.
    """
    try:
        yield
    finally:
        for i, queue in enumerate(queues):
            if queue.under_way:
                cancel(i, queue.under_way)


class Deadlines:
    """When the next answer of each worker is due: `timeout_s` after its last one.

    Only time in which the driver waits for answers counts, so no worker is late because the driver did something else.
    """

    def __init__(self, num_workers: int, timeout_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s, self._now, self._elsewhere_s = timeout_s, now, 0.0
        self._answered = dict.fromkeys(range(num_workers), now())

    def answered(self, worker: int) -> None:
        self._answered[worker] = self._now() - self._elsewhere_s

    def first(self, workers: Iterable[int]) -> tuple[int, float]:
        """(worker, time): which of these workers has the earliest deadline, and that deadline on the clock `now`."""
        worker = min(workers, key=self._answered.__getitem__)
        return worker, self._answered[worker] + self._elsewhere_s + self._timeout_s

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """The time that the block takes is added to all deadlines."""
        began = self._now()
        yield
        self._elsewhere_s += self._now() - began

"""Seconds per stage of one training step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

STAGES = ("gen", "reward", "ref", "old_log_prob", "update_actor", "sync_weights")
"""The remote stages of a step, in order. The driver's own work stands in no stage."""


class StepTimer:
    """Measures one step, from its construction to `metrics()`.

    Every instant belongs to the innermost open stage, and to the driver while none is open, so the parts add up:
    sum of stages + driver = step. A stage entered again adds to its first time. One timer per step, one thread.

    >>> ticks = iter([0.0, 1.0, 4.0, 5.0])
    >>> timer = StepTimer(clock=lambda: next(ticks))
    >>> with timer.stage("gen"):  # entered at 1 s, left at 4 s
    ...     pass
    >>> timer.metrics()
    {'timing_s/gen': 3.0, 'timing_s/driver': 2.0, 'timing_s/step': 5.0, 'perf/driver_share': 0.4}
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._start = self._mark = clock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as stage `name`; it is counted when the block raises, too."""
        self._settle()
        self._seconds.setdefault(name, 0.0)
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def during(self, name: str, stream: Iterable[T]) -> Iterator[T]:
        """The stream's items; from the first that is asked for until its end is stage `name`, what is done in between
        included. So work on the items that goes on beside the stream is not counted twice."""
        with self.stage(name):
            yield from stream

    def move(self, seconds: float, from_stage: str, to_stage: str) -> None:
        """Book `seconds` of `from_stage`, measured by a worker inside it, as `to_stage` (old log-probs, for one).

        A worker's clock may disagree by a little: never more moves than the stage has.
        """
        seconds = min(max(seconds, 0.0), self._seconds[from_stage])
        self._seconds[from_stage] -= seconds
        self._seconds[to_stage] = self._seconds.get(to_stage, 0.0) + seconds

    def metrics(self) -> dict[str, float]:
        """timing_s/<stage>, timing_s/driver and timing_s/step in seconds; perf/driver_share = driver / step."""
        self._settle()
        step = self._mark - self._start
        driver = max(step - sum(self._seconds.values()), 0.0)
        timings = {f"timing_s/{name}": seconds for name, seconds in self._seconds.items()}
        share = driver / step if step > 0 else 0.0
        return {**timings, "timing_s/driver": driver, "timing_s/step": step, "perf/driver_share": share}

    def _settle(self) -> None:
        now = self._clock()
        if self._open:
            self._seconds[self._open[-1]] += now - self._mark
        self._mark = now

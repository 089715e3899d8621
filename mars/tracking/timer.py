"""Measure the seconds of each stage of a training step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mars import watchdog

T = TypeVar("T")

SAMPLING_STAGES = ("probe", "gen", "reward", "signals")
"""The stages that sample and score responses, in the order in which they run."""
STAGES = (*SAMPLING_STAGES, "ref", "old_log_prob", "update_actor", "sync_weights", "turns", "wait_rollouts")
"""The stages of a step in which the driver waits for other processes."""


def overlapping_stages(metrics: Iterable[str]) -> tuple[str, ...]:
    """The stages to leave out when the stages of a step are added up to its time, because they ran during other stages.

    metrics: names of the step's metrics.

    >>> overlapping_stages(["timing_s/gen", "timing_s/wait_rollouts"]), overlapping_stages(["timing_s/gen"])
    (('probe', 'gen', 'reward', 'signals'), ())
    """
    return SAMPLING_STAGES if "timing_s/wait_rollouts" in metrics else ()


class StepTimer:
    """Measures one step, from its construction to `metrics()`. Use one timer per step, in one thread.

    Time counts for the innermost open stage; outside all stages it counts for the driver. So the stages and the driver
    add up to the step. Entering a stage again adds to its time.

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
        """Time the block as stage `name`, also if the block raises."""
        self._settle()
        self._seconds.setdefault(name, 0.0)
        self._open.append(name)
        try:
            with watchdog.stage(name):
                yield
        finally:
            self._settle()
            self._open.pop()

    def during(self, name: str, stream: Iterable[T]) -> Iterator[T]:
        """Yield the items of `stream`, timed as stage `name` from the first request for an item until the end.

        The stage includes the consumer's work between items, because that overlaps with the producer's work.
        """
        with self.stage(name):
            for item in stream:
                watchdog.beat()
                yield item

    def move(self, seconds: float, from_stage: str, to_stage: str) -> None:
        """Move `seconds` from one stage to another, for a part that a worker timed, such as the old log-probs.

        Moves at most what `from_stage` has, since the worker's clock may differ slightly.
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
        watchdog.beat()
        now = self._clock()
        if self._open:
            self._seconds[self._open[-1]] += now - self._mark
        self._mark = now

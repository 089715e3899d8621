"""Send a run's records to metrics.jsonl and, without any risk for the run, to further trackers (copies).

log ──> metrics.jsonl, in the caller's thread
    └─> per copy: bounded queue ──> own thread ──> rollout files, and what tracking.to names
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Protocol, runtime_checkable

from mars.output.text import visible
from mars.tracking.jsonl import finite_or_none
from mars.tracking.rollouts import sample_prompts
from mars.tracking.tracker import Tracker, close, start_allowance
from mars.types import PromptRollouts

logger = logging.getLogger(__name__)

QUEUE_SIZE = 256
"""A copy with this many waiting calls counts as stuck. This bounds memory."""


@runtime_checkable
class RemoteTracker(Protocol):
    """A callable object that builds a tracker. The tracker waits for other processes, such as a server.

    start_timeout_s, call_timeout_s: how long building the tracker and each of its calls may take.
    """

    @property
    def start_timeout_s(self) -> float: ...

    @property
    def call_timeout_s(self) -> float: ...

    def abandon(self) -> None:
        """Kill the helper processes of a failed tracker, because they would delay the run's exit."""
        ...


@dataclass(frozen=True)
class Limited:
    """A `RemoteTracker` from `make`, a function that builds a tracker. timeout_s: of a call of the tracker."""

    make: Callable[[], Tracker]
    timeout_s: float

    @property
    def start_timeout_s(self) -> float:
        return start_allowance(self.timeout_s)

    @property
    def call_timeout_s(self) -> float:
        return self.timeout_s

    def __call__(self) -> Tracker:
        return self.make()

    def abandon(self) -> None:
        """Does nothing: a hanging thread ends with the process."""


class Copy:
    """A tracker in its own thread behind a bounded queue, so that it can neither block nor fail the caller.

    The copy is switched off by an exception of the tracker or by a full queue. If `make` is a `RemoteTracker`, it is
    also switched off by a start or a call that takes longer than `make` allows. `failure` then has the reason. It is
    logged once, with the last step that the tracker has taken.
    make: builds the tracker. Called in the thread, because building may wait for a network.
    clock: seconds, monotonic.
    """

    def __init__(self, name: str, make: Callable[[], Tracker], clock: Callable[[], float] = time.monotonic) -> None:
        self.failure: str | None = None
        self._name = name
        self._make = make
        self._clock = clock
        limits = (make.start_timeout_s, make.call_timeout_s) if isinstance(make, RemoteTracker) else (inf, inf)
        self._start_timeout_s, self._call_timeout_s = limits
        # When the thread's current call must be done; None while it waits for a call.
        self._deadline: float | None = clock() + self._start_timeout_s
        self._lock = threading.Lock()
        self._calls: queue.Queue[tuple[Callable[[Tracker], None], int | None] | None] = queue.Queue(QUEUE_SIZE)
        self._run_failed = False
        self._taken: int | None = None  # the last step whose metrics the tracker has taken
        # A daemon thread, so that a call that never returns does not keep the process alive.
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def offer(self, call: Callable[[Tracker], None], step: int | None = None) -> None:
        """Queue `call` without waiting. step: of the metrics that the call logs, if it logs any."""
        self._queue((call, step))

    def end(self, *, failed: bool = False) -> None:
        """Let the thread close the tracker and end after the queued calls. failed: whether the run did not reach its
        end."""
        self._run_failed = failed
        self._queue(None)

    def _queue(self, item: tuple[Callable[[Tracker], None], int | None] | None) -> None:
        if self.failure is not None:
            return
        deadline = self._deadline
        if deadline is not None and self._clock() > deadline:
            self._fail("it does not answer in time")
            return
        try:
            self._calls.put_nowait(item)
        except queue.Full:
            self._fail(f"it does not keep up: {QUEUE_SIZE} calls wait")

    def join(self, deadline: float) -> None:
        """Wait until the thread ends, but at most until the time `deadline` (time.monotonic()). If it has not ended by
        then, the copy has failed."""
        if self.failure is None:
            self._thread.join(max(deadline - time.monotonic(), 0.0))
            if self._thread.is_alive():
                self._fail("it did not finish in time")
        if self.failure is not None and isinstance(self._make, RemoteTracker):
            self._make.abandon()

    def _work(self) -> None:
        tracker = None
        try:
            tracker = self._make()
            while (item := self._next()) is not None and self.failure is None:
                call, step = item
                call(tracker)
                self._taken = self._taken if step is None else step
        except BaseException as error:  # noqa: BLE001 - recorded in `failure`, logged and counted in fault/tracker
            self._failed_with(error)
        if tracker is None:
            return
        try:
            close(tracker, failed=self._run_failed)
        except BaseException as error:  # noqa: BLE001 - as above
            self._failed_with(error)

    def _failed_with(self, error: BaseException) -> None:
        self._fail(f"{type(error).__name__}: {error}")
        logger.debug("tracker %s failed with this exception", self._name, exc_info=error)

    def _next(self) -> tuple[Callable[[Tracker], None], int | None] | None:
        self._deadline = None
        item = self._calls.get()
        self._deadline = self._clock() + self._call_timeout_s
        return item

    def _fail(self, reason: str) -> None:
        with self._lock:
            if self.failure is not None:
                return
            self.failure = reason
        # The thread closes the tracker when its current call returns. If it is waiting for a call, this None wakes it,
        # because `offer` adds no more calls.
        with suppress(queue.Full):
            self._calls.put_nowait(None)
        has = "it has no step since its start" if self._taken is None else f"its last step is {self._taken}"
        logger.warning("tracker %s is switched off: %s; %s, metrics.jsonl has all", self._name, visible(reason), has)


class MultiTracker:
    """Writes every record to `primary`, then queues it for every copy.

    Adds two metrics to each step: fault/tracker (number of copies switched off so far) and fault/nonfinite_metrics
    (number of values of this step that are not finite).

    primary: the tracker of metrics.jsonl; its errors are raised.
    copies: name -> function that builds the tracker.
    rollouts_every: record rollouts at step 1 and at every multiple of this number; 0: never.
    rollout_prompts: how many prompts of such a step to record.
    timeout_s: how long `close` waits for all copies together.
    switched_off: number of switched-off copies of earlier trackers of this process.
    """

    def __init__(
        self,
        primary: Tracker,
        copies: Mapping[str, Callable[[], Tracker]],
        rollouts_every: int,
        rollout_prompts: int,
        timeout_s: float,
        switched_off: int = 0,
    ) -> None:
        self._primary = primary
        self._switched_off_before = switched_off
        self._copies = [Copy(name, make) for name, make in copies.items()]
        self._rollouts_every = rollouts_every
        self._rollout_prompts = rollout_prompts
        self._timeout_s = timeout_s

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        odd = sorted(key for key, value in metrics.items() if finite_or_none(value) is None)
        if odd:
            logger.warning("step %d: not finite: %s", step, visible(", ".join(f"{key}={metrics[key]}" for key in odd)))
        counts = {"fault/tracker": self.switched_off, "fault/nonfinite_metrics": len(odd)}
        row = {**metrics, **counts}
        self._primary.log(row, step)
        for copy in self._copies:
            copy.offer(lambda tracker: tracker.log(row, step), step)

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None:
        if not self._rollouts_every or (step != 1 and step % self._rollouts_every):
            return
        # Sample before queueing, so that the queue does not hold the token ids of whole steps.
        chosen = sample_prompts(rollouts, self._rollout_prompts, step)
        self._primary.log_rollouts(chosen, step)
        for copy in self._copies:
            copy.offer(lambda tracker: tracker.log_rollouts(chosen, step))

    def close(self) -> None:
        self._close(failed=False)

    def close_failed(self) -> None:
        """As `close`, but tells the copies that the run did not reach its end."""
        self._close(failed=True)

    def _close(self, *, failed: bool) -> None:
        self._primary.close()
        deadline = time.monotonic() + self._timeout_s
        for copy in self._copies:
            copy.end(failed=failed)
        for copy in self._copies:
            copy.join(deadline)

    @property
    def switched_off(self) -> int:
        """Number of copies that were switched off so far, of this MultiTracker and of earlier ones of this process."""
        return self._switched_off_before + sum(copy.failure is not None for copy in self._copies)

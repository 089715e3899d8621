"""One tracker made of several: the truth, and copies that cannot hurt a run.

log ──> truth (metrics.jsonl), in the caller's thread
    └─> per copy: bounded queue ──> its own thread ──> console, rollout files, wandb
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from mars.output.text import visible
from mars.tracking.jsonl import finite_or_none
from mars.tracking.rollouts import sample_prompts
from mars.tracking.tracker import Tracker
from mars.types import PromptRollouts

logger = logging.getLogger(__name__)

QUEUE_SIZE = 256
"""Calls that wait for a copy before it counts as stuck. A bound on memory, not a tunable."""


@runtime_checkable
class Abandonable(Protocol):
    """A maker of trackers that can end, at once, what a failed one would keep the process waiting for at its exit."""

    def abandon(self) -> None: ...


class Copy:
    """A tracker behind a bounded queue, in a thread of its own. Nothing it does reaches the caller.

    What it raises, and a queue that is full, switches it off: `failure` says why, and the log says it once.
    make: builds the tracker, in the thread as well, since this may wait for a network.
    """

    def __init__(self, name: str, make: Callable[[], Tracker]) -> None:
        self.failure: str | None = None
        self._name = name
        self._make = make
        self._lock = threading.Lock()
        self._calls: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(QUEUE_SIZE)
        # A daemon: a call that never returns must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def offer(self, call: Callable[[Tracker], None] | None) -> None:
        """Queue `call` without waiting; None ends the thread."""
        if self.failure is not None:
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._fail(f"it does not keep up: {QUEUE_SIZE} calls wait")

    def join(self, deadline: float) -> None:
        """Wait until all is written, at most until `deadline` on the monotonic clock; a failed copy is abandoned."""
        if self.failure is None:
            self._thread.join(max(deadline - time.monotonic(), 0.0))
            if self._thread.is_alive():
                self._fail("it did not finish in time")
        if self.failure is not None and isinstance(self._make, Abandonable):
            self._make.abandon()

    def _work(self) -> None:
        tracker = None
        try:
            tracker = self._make()
            while (call := self._calls.get()) is not None and self.failure is None:
                call(tracker)
        except BaseException as error:  # noqa: BLE001 - whatever a copy raises becomes its named, counted failure
            self._fail(f"{type(error).__name__}: {error}")
        if tracker is None:
            return
        try:
            tracker.close()
        except BaseException as error:  # noqa: BLE001 - as above
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        with self._lock:
            if self.failure is not None:
                return
            self.failure = reason
        logger.warning("tracker %s is switched off: %s; metrics.jsonl goes on", self._name, visible(reason))


class MultiTracker:
    """Writes `truth` first and hands the same to every copy.

    Adds fault/tracker (copies switched off so far) and fault/nonfinite_metrics (values of this step that are no
    finite number) to the metrics of every step.

    rollouts_every, rollout_prompts: the rollouts of step 1 and of every so many steps are sampled, so many prompts of
        them; 0 keeps none.
    timeout_s: longest that `close` waits, for all copies together.
    """

    def __init__(
        self,
        truth: Tracker,
        copies: Mapping[str, Callable[[], Tracker]],
        rollouts_every: int,
        rollout_prompts: int,
        timeout_s: float,
    ) -> None:
        self._truth = truth
        self._copies = [Copy(name, make) for name, make in copies.items()]
        self._rollouts_every = rollouts_every
        self._rollout_prompts = rollout_prompts
        self._timeout_s = timeout_s

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        odd = sorted(key for key, value in metrics.items() if finite_or_none(value) is None)
        if odd:
            logger.warning("step %d: not finite: %s", step, visible(", ".join(f"{key}={metrics[key]}" for key in odd)))
        counts = {"fault/tracker": self._failed_copies(), "fault/nonfinite_metrics": len(odd)}
        row = {**metrics, **counts}
        self._truth.log(row, step)
        for copy in self._copies:
            copy.offer(lambda tracker: tracker.log(row, step))

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None:
        if not self._rollouts_every or (step != 1 and step % self._rollouts_every):
            return
        # Sampled before the queue: a whole step's token ids must not wait there.
        chosen = sample_prompts(rollouts, self._rollout_prompts, step)
        self._truth.log_rollouts(chosen, step)
        for copy in self._copies:
            copy.offer(lambda tracker: tracker.log_rollouts(chosen, step))

    def close(self) -> None:
        self._truth.close()
        deadline = time.monotonic() + self._timeout_s
        for copy in self._copies:
            copy.offer(None)
        for copy in self._copies:
            copy.join(deadline)

    def _failed_copies(self) -> int:
        return sum(copy.failure is not None for copy in self._copies)

"""Scores answers in worker processes that can be killed: one deadline per answer, one bad answer costs one answer.

Workers are fresh interpreters in process groups of their own: no fork of a process that holds CUDA or threads, and no
import of its main module. A pool is for one thread at a time.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from math import ceil
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler

from mars.errors import ConfigError, WorkersLost
from mars.rewards.functions import resolve_spec
from mars.rewards.local import FailureLog, Scored, describe_error
from mars.rewards.process import WorkerProcess
from mars.rewards.reward import failed_result
from mars.types import RewardInput, RewardResult

logger = logging.getLogger(__name__)

# Answers handed to a worker at once: enough to hide the way to and fro, few enough to share the work evenly.
_CHUNK = 8
# An answer whose worker died is tried once more: the machine, not the answer, may have ended it (out of memory).
_ATTEMPTS = 2


class RewardPool:
    """A `RewardScorer`. Results are in the order of the items, and one bad answer costs one answer:

    - one that hangs longer than `timeout_s` seconds, in Python or in C, is killed: failed "timed out after N s";
    - one that ends its worker (a crash, os._exit) twice: failed "its worker died";
    - one on which the function raises, or returns no finite number: failed with the reason.

    Raises ConfigError when the function cannot be loaded, WorkersLost when no worker can be started any more.
    """

    def __init__(self, spec: str, num_workers: int, timeout_s: float) -> None:
        self._spec = resolve_spec(spec)
        self._num_workers = num_workers
        self._timeout_s = timeout_s
        self._failures = FailureLog(logger, spec)
        self._workers: list[WorkerProcess] = []
        self._start_error = ""
        self._closed = False
        try:
            self._start_missing()
            nothing = _Batch([])
            while not all(worker.ready for worker in self._workers) and not self._start_error:
                self._receive(nothing)
                self._end_late(nothing)
            if self._start_error:
                raise ConfigError(self._start_error)
        except BaseException:
            self.close()
            raise

    def score(self, items: Sequence[RewardInput]) -> list[RewardResult]:
        if self._closed:
            raise ValueError("the reward pool is closed")
        batch = _Batch(items)
        self._start_error = ""
        try:
            self._start_missing()
            while batch.num_open:
                if not self._workers:
                    raise WorkersLost(f"{self._start_error}; no reward worker is left")
                self._assign(batch)
                self._receive(batch)
                self._end_late(batch)
        finally:
            # After an exception (Ctrl-C) some still hold answers that nobody waits for; the next call replaces them.
            for worker in [worker for worker in self._workers if worker.assigned]:
                self._end(worker)
        for scored in batch.scored:
            self._failures.note(scored)
        return [scored.result for scored in batch.scored]

    def close(self) -> None:
        """Ends all workers and whatever they started. May be called twice."""
        for worker in list(self._workers):
            self._end(worker)
        self._closed = True

    @property
    def pids(self) -> tuple[int, ...]:
        """The workers' process ids at the moment; each leads a process group of its own."""
        return tuple(worker.pid for worker in self._workers)

    def _start_missing(self) -> None:
        while len(self._workers) < self._num_workers:
            self._workers.append(WorkerProcess(self._spec, self._timeout_s))

    def _assign(self, batch: _Batch) -> None:
        for worker in list(self._workers):
            if worker.ready and not worker.assigned and batch.pending:
                size = min(_CHUNK, ceil(len(batch.pending) / self._num_workers))
                worker.assigned.extend(batch.pending.popleft() for _ in range(size))
                try:
                    worker.send([batch.payloads[index] for index in worker.assigned])
                except OSError:  # it ended, or it stands still and reads nothing
                    self._lost(worker, batch, "its worker could not be reached")

    def _receive(self, batch: _Batch) -> None:
        """Waits for messages, at most until the next deadline."""
        busy = {worker.connection: worker for worker in self._workers if worker.deadline is not None}
        next_deadline = min((worker.deadline for worker in busy.values() if worker.deadline is not None), default=0.0)
        for connection in wait(list(busy), max(next_deadline - time.monotonic(), 0)):
            worker = busy[connection]
            try:
                message = connection.recv()
            except (EOFError, OSError):
                self._lost(worker, batch, "its worker died")
                continue
            if isinstance(message, Scored):
                batch.finish(worker.assigned.popleft(), message)
                worker.restart_clock()
            elif message is None:
                worker.become_ready()
            else:
                self._end(worker)
                self._start_error = message

    def _end_late(self, batch: _Batch) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.deadline is not None and worker.deadline <= now and not worker.connection.poll():
                self._lost(worker, batch, f"timed out after {self._timeout_s:g} s", timed_out=True)

    def _lost(self, worker: WorkerProcess, batch: _Batch, reason: str, *, timed_out: bool = False) -> None:
        """Ends a worker that died or hangs and starts another; its answer at hand is charged, the rest put back."""
        status = self._end(worker)
        if not worker.ready:
            self._start_error = f"reward.function: a worker ended or hung while it loaded {self._spec}; {status}"
            return
        first, *rest = worker.assigned
        if batch.charge(first) or timed_out:
            batch.finish(first, Scored(failed_result(reason if timed_out else f"{reason}; {status}")))
        else:
            rest = [first, *rest]
        batch.pending.extendleft(reversed(rest))
        self._start_missing()

    def _end(self, worker: WorkerProcess) -> str:
        self._workers.remove(worker)
        return worker.end()


class _Batch:
    """The items of one call: what is still to hand out, and what came back."""

    def __init__(self, items: Sequence[RewardInput]) -> None:
        self.payloads: list[bytes] = []
        self.pending: deque[int] = deque()
        self.num_open = len(items)
        self._deaths = [0] * len(items)
        self._scored: list[Scored | None] = [None] * len(items)
        for index, item in enumerate(items):
            self.payloads.append(b"")
            try:
                self.payloads[index] = bytes(ForkingPickler.dumps(item))
                self.pending.append(index)
            except Exception as error:  # noqa: BLE001 pickling a foreign object may fail in any way; it is reported
                self.finish(index, describe_error(error))

    def charge(self, index: int) -> bool:
        """Counts a death of the worker that was at this answer. True when it may not be tried again."""
        self._deaths[index] += 1
        return self._deaths[index] >= _ATTEMPTS

    def finish(self, index: int, scored: Scored) -> None:
        self._scored[index] = scored
        self.num_open -= 1

    @property
    def scored(self) -> list[Scored]:
        return [scored for scored in self._scored if scored is not None]

"""Scores answers in worker processes. Scoring an answer has a deadline; a worker that misses it is killed and replaced.

Workers are new interpreters, each in its own process group. They are not forked, because the driver may hold CUDA or
threads, and they do not import its main module. Only one thread at a time may use a pool; any may close it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from math import ceil
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler

from mars.errors import ConfigError, WorkerError
from mars.rewards.contract import ScorerName, failed_result
from mars.rewards.functions import RewardSpec, resolve_spec
from mars.rewards.local import FailureLog, Scored, describe_error
from mars.rewards.process import WorkerProcess
from mars.types import RewardInput, RewardResult

logger = logging.getLogger(__name__)

# Answers sent to a worker at once: enough to hide the socket's latency, few enough to keep all workers busy.
_CHUNK = 8
# An answer whose worker died is tried once more, because the machine may be the cause (out of memory).
_ATTEMPTS = 2


def _do_nothing() -> None:
    pass


class RewardPool:
    """A `RewardScorer` over worker processes. A thread serves them while `score` waits for the next item.

    Results are in the order of the items. An answer that cannot be scored gets a failed result and affects no
    other answer:

    - scoring it takes longer than `timeout_s` seconds, in Python or in C: "timed out after N s"; its worker is killed;
    - it ends its worker (a crash, os._exit) twice: "its worker died";
    - the function raises, or returns a score that is not finite or too large: the reason.

    on_start: called after each start of workers, in the thread that started them, which may be a thread of the pool.
    Raises ConfigError if the function cannot be loaded, WorkerError if no more worker can be started.
    """

    def __init__(
        self,
        spec: RewardSpec,
        scorer: ScorerName,
        num_workers: int,
        timeout_s: float,
        on_start: Callable[[], object] = _do_nothing,
    ) -> None:
        self._spec = resolve_spec(spec)
        self._scorer = scorer
        self._num_workers = num_workers
        self._timeout_s = timeout_s
        self._on_start = on_start
        self._failures = FailureLog(logger, spec)
        self._workers: list[WorkerProcess] = []
        self._start_error = ""
        self._closed = False
        self._serving: tuple[_Batch, threading.Thread] | None = None
        self._lock = threading.RLock()  # of what a thread that scores and one that closes the pool both touch
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        try:
            self._start_missing()
            nothing = _Batch()
            while not all(worker.ready for worker in self._workers) and not self._start_error:
                self._receive(nothing)
                self._end_late(nothing)
            if self._start_error:
                raise ConfigError(self._start_error)
        except BaseException:
            self.close()
            raise

    def score(self, items: Iterable[RewardInput]) -> list[RewardResult]:
        """Raises WorkerError if another thread closes the pool meanwhile."""
        if self._closed:
            raise ValueError("the reward pool is closed")
        batch = _Batch()
        self._start_error = ""
        thread = threading.Thread(target=self._serve, args=(batch,), name="rewards")
        thread.start()
        self._serving = batch, thread
        try:
            for item in items:
                batch.add(item)
                self._wake()
                if batch.error is not None or self._closed:
                    break
            batch.complete = True
            self._wake()
            thread.join()
        finally:
            batch.abandoned = True
            self._wake()
            thread.join()
            # After an exception (Ctrl-C), workers may still score answers of this call. End them; the next call starts
            # new ones.
            with self._lock:
                for worker in [worker for worker in self._workers if worker.assigned]:
                    self._end(worker)
            self._serving = None
        if self._closed:
            raise WorkerError("the reward pool was closed while it scored")
        if batch.error is not None:
            raise batch.error
        for scored in batch.scored:
            self._failures.note(scored)
        return [scored.result for scored in batch.scored]

    def close(self) -> None:
        """Ends all workers and their child processes. May be called twice, and while another thread scores."""
        if self._closed:
            return
        if self._serving is not None:
            batch, thread = self._serving
            batch.abandoned = True
            self._wake()
            thread.join()
        with self._lock:
            for worker in list(self._workers):
                self._end(worker)
            self._closed = True
            os.close(self._wake_read)
            os.close(self._wake_write)

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the current workers; each is also the id of its process group."""
        return tuple(worker.pid for worker in self._workers)

    def _serve(self, batch: _Batch) -> None:
        """What the thread of `score` runs, until every item is scored. `score` raises its exception."""
        try:
            self._start_missing()
            while batch.is_open:
                if not self._workers:
                    raise WorkerError(f"{self._start_error}; no reward worker is left")
                self._assign(batch)
                self._receive(batch)
                self._end_late(batch)
        except BaseException as error:  # noqa: BLE001 raised again in the thread that asked
            batch.error = error

    def _wake(self) -> None:
        """Interrupts the wait in `_receive`, so that it sees new items and flags."""
        with self._lock, suppress(BlockingIOError):  # a full pipe already interrupts it
            if not self._closed:  # else another file may have this descriptor
                os.write(self._wake_write, b"x")

    def _start_missing(self) -> None:
        missing = self._num_workers - len(self._workers)
        for _ in range(missing):
            self._workers.append(WorkerProcess(self._spec, self._scorer, self._timeout_s))
        if missing > 0:
            self._on_start()

    def _assign(self, batch: _Batch) -> None:
        for worker in list(self._workers):
            if worker.ready and not worker.assigned and batch.pending:
                if worker.connection.poll():  # an idle worker sends nothing, so it has ended; no answer was the cause
                    self._end(worker)
                    continue
                size = min(_CHUNK, ceil(len(batch.pending) / self._num_workers))
                worker.assigned.extend(batch.pending.popleft() for _ in range(size))
                try:
                    worker.send([batch.payloads[index] for index in worker.assigned])
                except OSError:  # the worker ended, or it is stopped and does not read
                    self._lost(worker, batch, "its worker could not be reached")
        self._start_missing()

    def _receive(self, batch: _Batch) -> None:
        """Waits for messages and new items until the next deadline, and handles the messages."""
        busy = {worker.connection: worker for worker in self._workers if worker.deadline is not None}
        deadlines = [worker.deadline for worker in busy.values() if worker.deadline is not None]
        timeout = max(min(deadlines) - time.monotonic(), 0) if deadlines else None
        for connection in wait([*busy, self._wake_read], timeout):
            if connection == self._wake_read:
                os.read(self._wake_read, 2**16)
                continue
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
        """Ends a worker that died or hangs and starts another.

        The answer it was scoring fails, or is tried once more; its other answers are queued again.
        """
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
    """The items of one call of `score` and their results. pending: indices of the items still to send.

    Two threads share it without a lock. The caller uses `add` and the flags until the serving thread has ended; the
    serving thread uses the rest.
    complete: no more items come. abandoned: the caller no longer waits. error: what ended the serving thread.
    """

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.pending: deque[int] = deque()
        self.complete = self.abandoned = False
        self.error: BaseException | None = None
        self._deaths: list[int] = []
        self._scored: list[Scored | None] = []
        self._num_added = self._num_finished = 0

    @property
    def is_open(self) -> bool:
        return not self.abandoned and not (self.complete and self._num_finished == self._num_added)

    def add(self, item: RewardInput) -> None:
        index = len(self.payloads)
        self.payloads.append(b"")
        self._deaths.append(0)
        self._scored.append(None)
        try:
            self.payloads[index] = bytes(ForkingPickler.dumps(item))
        except Exception as error:  # noqa: BLE001 pickling a foreign object may fail in any way; it is reported
            self._scored[index] = describe_error(error)
        else:
            self._num_added += 1
            self.pending.append(index)

    def charge(self, index: int) -> bool:
        """Counts that a worker died while scoring this answer. True if the answer must not be tried again."""
        self._deaths[index] += 1
        return self._deaths[index] >= _ATTEMPTS

    def finish(self, index: int, scored: Scored) -> None:
        self._scored[index] = scored
        self._num_finished += 1

    @property
    def scored(self) -> list[Scored]:
        return [scored for scored in self._scored if scored is not None]

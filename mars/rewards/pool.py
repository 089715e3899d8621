"""Scores answers in worker processes. Scoring an answer has a deadline; a worker that misses it is killed and replaced.

Workers are new interpreters, each in its own process group. They are not forked, because the driver may hold CUDA or
threads. Only one thread at a time may use a pool; any may close it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from math import ceil
from multiprocessing.connection import wait

from mars import background
from mars.errors import ConfigError, WorkerError
from mars.rewards.batch import Batch
from mars.rewards.contract import ScorerName
from mars.rewards.functions import RewardSpec, resolve_spec
from mars.rewards.local import FailureLog
from mars.rewards.messages import Done, WorkerSettings
from mars.rewards.process import WorkerProcess
from mars.types import RewardInput, RewardResult

logger = logging.getLogger(__name__)

# Answers sent at once to a worker that scores one after the other: enough to hide the socket's latency, few enough to
# keep all workers busy.
_CHUNK = 8
_LOOK_S = 0.5


def _do_nothing() -> None:
    pass


class RewardPool:
    """A `RewardScorer` over worker processes.

    An answer that cannot be scored gets a failed result and affects no other answer:

    - scoring it takes longer than `timeout_s` seconds, in Python or in C: "timed out after N s"; its worker is killed;
    - it ends its worker (a crash, os._exit) twice: "its worker died";
    - the function raises, or returns a score that is not finite or too large: the reason.

    concurrency: how many answers one worker scores at once, in threads. If an answer is late, only this answer fails,
        and the worker is killed after it has scored its other answers. If a worker dies or is stuck with several
        answers, each is scored again alone.
    by_prompt: users' functions take a list of answers. A tuple of answers is one call; a single answer is a call with a
        list of one. Deadline and failures then apply to all answers of a call together.
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
        *,
        concurrency: int = 1,
        by_prompt: bool = False,
    ) -> None:
        self._settings = WorkerSettings(resolve_spec(spec), scorer, timeout_s, concurrency, by_prompt)
        self._num_workers = num_workers
        self._timed_out = f"timed out after {timeout_s:g} s"
        self._on_start = on_start
        self._failures = FailureLog(logger, spec)
        self._workers: list[WorkerProcess] = []
        self._counts: Counter[str] = Counter()
        self._start_error = ""
        self._closed = False
        self._serving: tuple[Batch, threading.Thread] | None = None
        self._lock = threading.RLock()  # guards what a scoring thread and a thread that closes the pool both use
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        try:
            self._start_missing()
            nothing = Batch()
            while not all(worker.ready for worker in self._workers) and not self._start_error:
                self._receive(nothing)
                self._end_late(nothing)
            if self._start_error:
                raise ConfigError(self._start_error)
        except BaseException:
            self.close()
            raise

    def score(self, items: Iterable[RewardInput | tuple[RewardInput, ...]]) -> list[RewardResult]:
        """Raises WorkerError if another thread closes the pool meanwhile."""
        batch = Batch()
        thread = threading.Thread(target=self._serve, args=(batch,), name="rewards")
        with self._lock:
            if self._closed:
                raise ValueError("the reward pool is closed")
            self._start_error = ""
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
            while thread.is_alive():
                thread.join(_LOOK_S)
                background.check()
        finally:
            batch.abandoned = True
            self._wake()
            thread.join()
            # After an exception (Ctrl-C, `Stopped`), workers may still score answers of this call. End them; the next
            # call starts new ones.
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
        with self._lock:
            if self._closed:
                return
            serving = self._serving
            if serving is not None:
                serving[0].abandoned = True
                self._wake()
            self._closed = True  # from here on `score` starts no thread
        if serving is not None:
            serving[1].join()
        with self._lock:
            for worker in list(self._workers):
                self._end(worker)
            os.close(self._wake_read)
            os.close(self._wake_write)

    def counts(self) -> Mapping[str, float]:
        """What reward functions have counted so far (mars/rewards/call_facts.py), by name of the metric."""
        return dict(self._counts)

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the current workers; each is also the id of its process group."""
        return tuple(worker.pid for worker in self._workers)

    def _serve(self, batch: Batch) -> None:
        """Runs in a thread of `score` until all items are scored. If an error ends the thread, `score` raises it."""
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
        """Ends the wait in `_receive`, so that the loop in `_serve` sees new items, or that the batch has ended."""
        with self._lock, suppress(BlockingIOError):  # a full pipe already interrupts it
            if not self._closed:  # else another file may have this descriptor
                os.write(self._wake_write, b"x")

    def _start_missing(self) -> None:
        missing = self._num_workers - len(self._workers)
        for _ in range(missing):
            self._workers.append(WorkerProcess(self._settings))
        if missing > 0:
            self._on_start()

    def _assign(self, batch: Batch) -> None:
        for worker in list(self._workers):
            room = self._room(worker, batch) if batch.pending else 0
            if room == 0:
                continue
            if not worker.assigned and worker.connection.poll():
                self._end(worker)  # an idle worker sends nothing, so it has ended; no answer was the cause
                continue
            size = min(room, ceil(len(batch.pending) / self._num_workers))
            numbers = [batch.pending.popleft() for _ in range(size)]
            try:
                worker.send([batch.calls[number] for number in numbers])
            except OSError:  # the worker ended, or it is stopped and does not read
                self._lost(worker, batch, "its worker could not be reached")
        self._start_missing()

    def _room(self, worker: WorkerProcess, batch: Batch) -> int:
        """The most calls (`Call`) that may be sent to a worker now.

        Suspects, calls whose worker died or hung, come first in `pending`. With threads (concurrency above 1), a worker
        that has a suspect gets no other call.
        """
        if not worker.ready or worker.retiring:
            return 0
        if self._settings.concurrency == 1:
            return 0 if worker.assigned else _CHUNK
        if batch.pending[0] in batch.suspects:
            return 0 if worker.assigned else 1
        return 0 if batch.suspects.intersection(worker.assigned) else self._settings.concurrency - len(worker.assigned)

    def _receive(self, batch: Batch) -> None:
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
            if isinstance(message, Done):
                worker.finish(message.number)
                self._counts.update(message.counts)
                worker.retiring |= message.scored is None
                if message.scored is None:
                    batch.fail(message.number, self._timed_out)
                else:
                    batch.finish(message.number, message.scored)
                if worker.retiring and not worker.assigned:
                    self._end(worker)
                    self._start_missing()
            elif message is None:
                worker.ready = True
            else:
                self._end(worker)
                self._start_error = message

    def _end_late(self, batch: Batch) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.deadline is not None and worker.deadline <= now and not worker.connection.poll():
                self._lost(worker, batch, self._timed_out, timed_out=True)

    def _lost(self, worker: WorkerProcess, batch: Batch, reason: str, *, timed_out: bool = False) -> None:
        """Ends a worker that died or hangs, and starts another unless this one was still loading the reward's file.

        If the worker ran one `Call`, this call fails if it is late or has lost a worker before; otherwise it is tried
        once more. If the worker ran several, each is tried once more, alone.
        """
        status = self._end(worker)
        if not worker.ready:
            loaded = f"a worker ended or hung while it loaded {self._settings.spec}"
            self._start_error = f"reward.function: {loaded}; {status}"
            return
        running, again = worker.running, list(worker.assigned)
        for number in running:
            is_last_try = batch.charge(number) or timed_out
            if is_last_try and len(running) == 1:
                batch.fail(number, reason if timed_out else f"{reason}; {status}")
                again.remove(number)
        batch.pending.extendleft(reversed(again))
        self._start_missing()

    def _end(self, worker: WorkerProcess) -> str:
        self._workers.remove(worker)
        return worker.end()

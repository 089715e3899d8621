"""Several calls of a reward function at once in one worker process, for functions that wait for a service."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue

from mars.rewards.call_facts import taken_counts
from mars.rewards.local import Scored
from mars.rewards.messages import Call, Done


class CallThreads:
    """Runs calls in a fixed number of threads, one at a time in each, and reports a call that misses its deadline.

    Python cannot end a thread. So the `RewardPool` sends no more calls to a process with a late call, and ends the
    process when its other calls are done.
    """

    def __init__(
        self, connection: Connection, score: Callable[[Call], tuple[Scored, ...]], num_threads: int, timeout_s: float
    ):
        self._connection = connection
        self._score = score
        self._num_threads = num_threads
        self._timeout_s = timeout_s
        self._queue: SimpleQueue[Call] = SimpleQueue()
        self._deadlines: dict[int, float] = {}  # of the calls whose end the pool awaits
        self._lock = threading.Lock()  # guards the deadlines, and sending

    def serve(self) -> None:
        """Takes calls until the pool closes its end, then raises EOFError. There are never more calls than threads."""
        for _ in range(self._num_threads):
            threading.Thread(target=self._work, name="reward", daemon=True).start()
        while True:
            if self._connection.poll(self._until_deadline()):
                for call in self._connection.recv():
                    with self._lock:
                        self._deadlines[call.number] = time.monotonic() + self._timeout_s
                    self._queue.put(call)
            self._report_late()

    def _until_deadline(self) -> float | None:
        with self._lock:
            first = min(self._deadlines.values(), default=None)
        return None if first is None else max(first - time.monotonic(), 0)

    def _report_late(self) -> None:
        now = time.monotonic()
        with self._lock:
            for number in [number for number, deadline in self._deadlines.items() if deadline <= now]:
                del self._deadlines[number]
                self._connection.send(Done(number, None, taken_counts()))

    def _work(self) -> None:
        try:
            while True:
                call = self._queue.get()
                scored = self._score(call)
                with self._lock:
                    if self._deadlines.pop(call.number, None) is not None:
                        self._connection.send(Done(call.number, scored, taken_counts()))
        except (BrokenPipeError, ConnectionResetError):
            return  # the pool closed its end
        except BaseException:  # noqa: BLE001 as in a process without threads, what is not a failed answer ends the process
            try:
                traceback.print_exc()
            finally:
                os._exit(1)

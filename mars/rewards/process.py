"""One reward worker process, seen from the pool."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection

from mars.rewards.messages import Call, WorkerSettings

# Deadline for loading a reward's file; generous, because it may import torch from a slow disk.
_START_TIMEOUT_S = 120.0
# A killed process ends at once unless the kernel holds it (in a stuck file system, say); then we stop waiting for it.
_END_TIMEOUT_S = 10.0
# A process with several calls at once reports a late call itself. If it has not done so after this time, it is stuck.
_REPORT_TIMEOUT_S = 2.0


class WorkerProcess:
    """A worker, the socket to it, and the calls it has been sent.

    connection: sending and receiving raise OSError after `timeout_s` seconds, for example if the worker is suspended.
    assigned: `Call.number` of each call that was sent and has neither returned nor is late, in order. The worker runs
        the first `concurrency` of them now; the others wait.
    retiring: whether a late call still runs in one of its threads.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.assigned: deque[int] = deque()
        self.ready = self.retiring = False
        self._start_deadline = time.monotonic() + _START_TIMEOUT_S
        self._deadlines: dict[int, float] = {}
        self._concurrency = settings.concurrency
        timeout_s = settings.timeout_s
        self._timeout_s = timeout_s if settings.concurrency == 1 else timeout_s + _REPORT_TIMEOUT_S
        ours, theirs = socket.socketpair()
        limit = struct.pack("@ll", int(timeout_s), int(timeout_s % 1 * 1e6))
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, option, limit)
        # Nobody writes to this pipe. When this process ends, in any way, its end closes and the kernel ends the worker.
        # Each worker has its own pipe, because the kernel signals only one process for each pipe.
        lifeline_read, self._lifeline = os.pipe()
        fds = (theirs.fileno(), lifeline_read)
        try:
            # Not multiprocessing: its children import the main module of this process, and torch with it.
            # A new session: Ctrl-C reaches only the driver, and killing the group ends what the reward started too.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "mars.rewards.worker", *map(str, fds)],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={
                    "OMP_NUM_THREADS": "1",
                    **os.environ,
                    "PYTHONUTF8": "1",
                    "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
                },
            )
        finally:
            theirs.close()
            os.close(lifeline_read)
        self.connection = Connection(ours.detach())
        self.connection.send(settings)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> list[int]:
        """The assigned calls that the worker runs now."""
        return list(islice(self.assigned, self._concurrency))

    @property
    def deadline(self) -> float | None:
        """When the next message is due (time.monotonic); None if none is."""
        return min(self._deadlines.values(), default=None) if self.ready else self._start_deadline

    def send(self, calls: list[Call]) -> None:
        """Raises OSError if the worker is gone or does not read."""
        self.assigned.extend(call.number for call in calls)
        self._start_clocks()
        self.connection.send(calls)

    def finish(self, number: int) -> None:
        """Removes a call from the assigned ones: it has returned or is late."""
        self.assigned.remove(number)
        del self._deadlines[number]
        self._start_clocks()

    def _start_clocks(self) -> None:
        """Starts the deadline of each call that begins now."""
        for number in self.running:
            self._deadlines.setdefault(number, time.monotonic() + self._timeout_s)

    def end(self) -> str:
        """Kills the worker and all it started, whatever they are doing. Returns how it ended, for messages."""
        self.connection.close()
        os.close(self._lifeline)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        try:
            code = self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"process {self.pid} cannot be ended"
        return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

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
from multiprocessing.connection import Connection

from mars.rewards.contract import ScorerName
from mars.rewards.functions import RewardSpec

# Bounds a module that hangs while it is imported; generous, for it may import torch from a slow disk.
_START_TIMEOUT_S = 120.0
# A killed process is gone at once unless the kernel holds it, in a stuck file system say; then it is left behind.
_END_TIMEOUT_S = 10.0


class WorkerProcess:
    """A worker, the socket to it, and the answers it has been given.

    connection: raises OSError instead of blocking longer than the deadline when the worker stands still.
    assigned: indices of the answers sent and not yet back, in order; the worker is at the first.
    deadline: when the next message is due (time.monotonic); None while nothing is.
    """

    def __init__(self, spec: RewardSpec, scorer: ScorerName, timeout_s: float) -> None:
        self.assigned: deque[int] = deque()
        self.deadline: float | None = time.monotonic() + _START_TIMEOUT_S
        self.ready = False
        self._timeout_s = timeout_s
        ours, theirs = socket.socketpair()
        limit = struct.pack("@ll", int(timeout_s), int(timeout_s % 1 * 1e6))
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, option, limit)
        # Never written to. When this process ends, however it ends, its end closes and the kernel ends the worker.
        # One for each worker: the request for the signal belongs to the open pipe, the last to ask would get it alone.
        lifeline_read, self._lifeline = os.pipe()
        fds = (theirs.fileno(), lifeline_read)
        try:
            # Not multiprocessing: its children import the main module of this process, and torch with it.
            # A session of its own: Ctrl-C stays with the driver, and what a reward starts can be ended with it.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "mars.rewards.worker", *map(str, fds)],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={
                    "OMP_NUM_THREADS": "1",
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
                },
            )
        finally:
            theirs.close()
            os.close(lifeline_read)
        self.connection = Connection(ours.detach())
        self.connection.send((spec, scorer))

    @property
    def pid(self) -> int:
        return self._process.pid

    def become_ready(self) -> None:
        self.ready = True
        self.deadline = None

    def send(self, payloads: list[bytes]) -> None:
        """Hands over the pickled items of `assigned`. Raises OSError when the worker is gone or reads nothing."""
        self.restart_clock()
        self.connection.send(payloads)

    def restart_clock(self) -> None:
        """The next answer's time begins."""
        self.deadline = time.monotonic() + self._timeout_s if self.assigned else None

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

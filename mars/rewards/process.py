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

# Deadline for loading a reward's file; generous, because it may import torch from a slow disk.
_START_TIMEOUT_S = 120.0
# A killed process ends at once unless the kernel holds it (in a stuck file system, say); then we stop waiting for it.
_END_TIMEOUT_S = 10.0


class WorkerProcess:
    """A worker, the socket to it, and the answers it has been sent.

    connection: sending and receiving raise OSError after `timeout_s` seconds, for example if the worker is suspended.
    assigned: indices of the answers sent and not yet returned, in order; the worker scores the first.
    deadline: when the next message is due (time.monotonic); None if none is.
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
        # Nobody writes to this pipe. When this process ends, in any way, its end closes and the kernel ends the worker.
        # Each worker has its own pipe, because the kernel signals only the last process that asked for it.
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
        self.connection.send((spec, scorer))

    @property
    def pid(self) -> int:
        return self._process.pid

    def become_ready(self) -> None:
        self.ready = True
        self.deadline = None

    def send(self, payloads: list[bytes]) -> None:
        """Sends the pickled items of `assigned`. Raises OSError if the worker is gone or does not read."""
        self.restart_clock()
        self.connection.send(payloads)

    def restart_clock(self) -> None:
        """Starts the deadline of the next answer."""
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

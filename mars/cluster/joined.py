"""Watches the head of a Ray cluster that the run has joined, from the driver and from each worker.

A run cannot go on without the head (Ray's GCS). But for a minute Ray does not report that it is lost: calls wait, and
nodes keep their workers.
"""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray
from ray._private import worker

from mars import interrupts
from mars.cluster.worker_process import end_this_process
from mars.errors import WorkerError

_LOOK_S = 1.0
_WORKER_LOOK_S = 5.0
"""A worker connects less often while the head accepts, because a thousand workers may do so."""
_CONNECT_S = 5.0
LOST_S = 10.0
"""How long the head may fail to accept connections before it counts as lost."""
_OF_THIS_PROCESS = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}


class Silence:
    """For how long all connections to the head have failed.

    The time counts from the first failure to the last one. Between two failures at most 6 s count, the longest time
    that a pause and an attempt to connect take. If more time passed, this process was stopped and did not try.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._failed: float | None = None

    def add(self, error: OSError | None, now: float) -> bool:
        """Add the result of a connection. Returns whether the head is lost, that is silent for more than `LOST_S`.

        error: None for an accepted one. Errors of this process (too many open files) and of name lookup are ignored.
        now: time.monotonic().
        """
        if error is None:
            self.seconds, self._failed = 0.0, None
        elif not isinstance(error, socket.gaierror) and error.errno not in _OF_THIS_PROCESS:
            if self._failed is not None:
                self.seconds += min(now - self._failed, _LOOK_S + _CONNECT_S)
            self._failed = now
        return self.seconds > LOST_S

    @property
    def has_begun(self) -> bool:
        return self._failed is not None


def wait_for_loss(
    address: str, over: threading.Event, raylet: int | None = None, look_s: float = _LOOK_S
) -> str | None:
    """Wait until the head is lost, and return why; None once `over` is set.

    address: host:port of the GCS. raylet: descriptor (pidfd) of the raylet of this node, whose end is a loss too.
    look_s: mean number of seconds between two connections while the head accepts them.
    """
    host, _, port = address.rpartition(":")
    ends = select.poll()
    if raylet is not None:
        ends.register(raylet, select.POLLIN)
    silence, draw = Silence(), random.SystemRandom()  # leaves the state of Python's random numbers as it is
    while not over.is_set():
        pause = _LOOK_S if silence.has_begun else look_s * draw.uniform(0.5, 1.5)
        if ends.poll(pause * 1000) if raylet is not None else over.wait(pause):
            return None if over.is_set() else "Ray's process `raylet` on the driver's node has ended"
        error = _connection_error(host.strip("[]"), int(port))
        if silence.add(error, time.monotonic()):
            return f"the head at {address} has accepted no connection for {LOST_S:g} s ({error})"
    return None


def _connection_error(host: str, port: int) -> OSError | None:
    try:
        socket.create_connection((host, port), _CONNECT_S).close()
    except OSError as error:
        return error
    return None


@contextmanager
def watch_joined() -> Iterator[None]:
    """End the process with a WorkerError if the joined cluster is lost during the block."""
    over = threading.Event()
    address = ray.get_runtime_context().gcs_address
    arguments = (address, over, _local_raylet())
    threading.Thread(target=_end_driver, args=arguments, name="ray-head", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def watch_from_worker() -> None:
    """End this worker, and what it has started, when the head is lost."""
    address = ray.get_runtime_context().gcs_address
    threading.Thread(target=_end_worker, args=(address,), name="ray-head", daemon=True).start()


def _end_driver(address: str, over: threading.Event, raylet: int | None) -> None:
    reason = wait_for_loss(address, over, raylet)
    if reason is not None:
        consequence = interrupts.consequence()
        interrupts.end_now(
            WorkerError(
                f"cluster: the Ray cluster is lost: {reason}; start it again, with cluster.address if it is another "
                f"one now; {consequence}"
            )
        )


def _end_worker(address: str) -> None:
    if wait_for_loss(address, threading.Event(), look_s=_WORKER_LOOK_S) is not None:
        end_this_process()


def _local_raylet() -> int | None:
    """The descriptor (pidfd) of this node's raylet; None if there is none."""
    node = worker._global_node
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(node.raylet_socket_name)
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return os.pidfd_open(pid) if pid else None
    return None

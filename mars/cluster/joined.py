"""Watches the head of a Ray cluster that the run has joined, from the driver and from each worker.

Without its head (Ray's GCS) nothing of the run can go on, but Ray tells nobody for a minute: calls wait, and the nodes
keep their workers. Here each process of the run finds out by itself and ends.
"""

from __future__ import annotations

import os
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
_CONNECT_S = 5.0
LOST_S = 10.0
"""So long the head may accept no connection."""


def wait_for_loss(address: str, over: threading.Event, raylet: int | None = None) -> str | None:
    """Wait until the head is lost, and return how; None once `over` is set.

    address: host:port of the GCS. raylet: descriptor (pidfd) of the process of this node whose end is a loss too.
    """
    host, _, port = address.rpartition(":")
    ends = select.poll()
    if raylet is not None:
        ends.register(raylet, select.POLLIN)
    answered = time.monotonic()
    while not over.is_set():
        if ends.poll(_LOOK_S * 1000) if raylet is not None else over.wait(_LOOK_S):
            return None if over.is_set() else "Ray's process `raylet` on the driver's node has ended"
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
            answered = time.monotonic()
        except OSError as error:
            if time.monotonic() - answered > LOST_S:
                return f"the head at {address} has accepted no connection for {LOST_S:g} s ({error})"
    return None


@contextmanager
def watch_joined() -> Iterator[None]:
    """End the process with a WorkerError if the cluster joined by this process is lost inside the block."""
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
    if wait_for_loss(address, threading.Event()) is not None:
        end_this_process()


def _local_raylet() -> int | None:
    """Of the raylet that this process is connected to: the one that listens on its socket."""
    node = worker._global_node
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(node.raylet_socket_name)
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return os.pidfd_open(pid) if pid else None
    return None

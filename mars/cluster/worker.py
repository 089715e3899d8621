"""The base class of workers: an actor process of Ray with its own log file."""

from __future__ import annotations

import faulthandler
import gc
import logging
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import worker as ray_worker
from ray.exceptions import RayError

from mars.cluster.joined import watch_from_worker
from mars.cluster.worker_process import STACKS_SIGNAL, WorkerProcess, this_process
from mars.run_dir.processes import record_worker


class Worker:
    """Base class of the Ray actors. Logs to <log_dir>/<name>.log."""

    def __init__(self, name: str, log_dir: str) -> None:
        self.name = name
        gc.disable()  # `gc_paused` enables it again when the engine or trainer is built
        Path(log_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        record_worker(Path(log_dir), name)
        logging.raiseExceptions = False  # on a full disk records are lost, without a traceback for each
        logging.basicConfig(
            filename=Path(log_dir) / f"{name}.log",
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            level=logging.INFO,
        )

        self._stacks = (Path(log_dir) / f"{name}.stacks.txt").open("a")
        watch_from_worker()
        faulthandler.register(STACKS_SIGNAL, self._stacks, all_threads=True)

    def process(self) -> WorkerProcess:
        return this_process()

    def let_go(self) -> None:
        """Free what cancelled calls of this worker hold (`cancel`). Runs after these calls."""

    def address(self) -> str:
        """A free host:port on this worker's node."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


def cancel(worker: Any, calls: Iterable[Any]) -> None:
    """In the driver: cancel calls of a worker that have not ended, and let it run `let_go` after them.

    A running call ends when it checks `is_cancelled`. If a call still waits in the worker's queue, up to two seconds
    pass before Ray counts it as cancelled. Does nothing if the worker or the cluster is gone.
    """
    if not ray.is_initialized():  # `ray.cancel` would start a cluster
        return
    with suppress(RayError):
        for call in calls:
            ray.cancel(call, recursive=False)
        worker.let_go.remote()


def is_cancelled() -> bool:
    """In a worker: whether the driver has cancelled the running call. False in a process that is not a worker."""
    is_worker = ray_worker.global_worker.mode == ray.WORKER_MODE
    return is_worker and ray.get_runtime_context().is_canceled()  # in another process this would start a cluster

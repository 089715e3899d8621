"""The base class of workers: an actor process of Ray that logs to a file of its own."""

from __future__ import annotations

import faulthandler
import gc
import logging
import socket
from pathlib import Path

import ray

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
        logging.raiseExceptions = False  # a full disk costs records, and no traceback for each of them
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

    def address(self) -> str:
        """A free host:port on this worker's node."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

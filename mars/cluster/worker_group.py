"""Groups of Ray worker processes: every call has a deadline, and every failure becomes a MarsError with a reason."""

from __future__ import annotations

import gc
import logging
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mars.cluster.head import check_head
from mars.cluster.placement import Placement, WorkerResources
from mars.errors import MarsError, WorkerError
from mars.output.text import shorten

_CLOSE_TIMEOUT_S = 5.0
"""How long a worker's close() may take before the worker is killed."""
_REASON_CHARS = 500


class Worker:
    """Base class of the Ray actors. Logs to <log_dir>/<name>.log."""

    def __init__(self, name: str, log_dir: str) -> None:
        self.name = name
        gc.disable()  # `gc_paused` enables it again when the engine or trainer is built
        Path(log_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        logging.basicConfig(
            filename=Path(log_dir) / f"{name}.log",
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            level=logging.INFO,
        )

    def address(self) -> str:
        """A free host:port on this worker's node."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


class WorkerGroup:
    """Workers of one class on the bundles of a placement.

    first_bundle: index of the first worker's bundle in the placement; the other workers use the next ones.
    environment: variables set in the workers in addition to those of their node.
    timeout_s: deadline of each call unless the call gives its own.
    """

    def __init__(
        self,
        worker_class: type[Worker],
        resources: Sequence[WorkerResources],
        placement: Placement,
        first_bundle: int,
        environment: Mapping[str, str],
        log_dir: str,
        timeout_s: float,
    ) -> None:
        self._names = [worker.name for worker in resources]
        self._timeout_s = timeout_s
        self._log_dir = log_dir
        remote_class = ray.remote(worker_class)
        self.workers = [
            remote_class.options(
                num_cpus=worker.cpus,
                num_gpus=worker.gpus,
                runtime_env={"env_vars": dict(environment)} if environment else None,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement.group, placement_group_bundle_index=first_bundle + i
                ),
            ).remote(worker.name, log_dir)
            for i, worker in enumerate(resources)
        ]

    def results(self, references: Sequence[Any], call: str, timeout_s: float | None = None) -> list[Any]:
        """Wait for the results of `references`, in order. call: name of the call in error messages.

        Raises a MarsError of a worker as it is; WorkerError if a worker died, raised anything else, or missed the
        deadline.
        """
        deadline = self._timeout_s if timeout_s is None else timeout_s
        with self._named(call, deadline):
            check_head()
            return ray.get(list(references), timeout=deadline)

    def streams(self, method: str, arguments: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Call a generator method on every worker and yield (index of the worker, item) as items arrive.

        arguments: one per worker. The deadline holds for the whole call. Raises the same errors as `results`.
        """
        end = time.monotonic() + self._timeout_s
        running = {
            getattr(worker, method).options(num_returns="streaming").remote(argument): i
            for i, (worker, argument) in enumerate(zip(self.workers, arguments, strict=True))
        }
        while running:
            with self._named(method, self._timeout_s):
                check_head()
                ready, _ = ray.wait(list(running), timeout=max(end - time.monotonic(), 0))
                if not ready:
                    raise GetTimeoutError
                try:
                    item = ray.get(next(ready[0]))
                except StopIteration:
                    del running[ready[0]]
                    continue
            yield running[ready[0]], item

    def close(self) -> None:
        """Call close() on every worker, then kill it."""
        try:
            ray.get([worker.close.remote() for worker in self.workers], timeout=_CLOSE_TIMEOUT_S)
        except RayError as error:
            logging.getLogger(__name__).debug("workers %s did not close: %s", self._names, error)
        for worker in self.workers:
            ray.kill(worker)

    @contextmanager
    def _named(self, call: str, deadline: float) -> Iterator[None]:
        """Turn Ray's errors inside the block into MarsErrors that name the call and the reason."""
        try:
            yield
        except RayTaskError as error:
            if isinstance(error.cause, MarsError):
                raise error.cause from error
            raise WorkerError(self._describe(call, _one_line(error.cause))) from error
        except GetTimeoutError as error:
            raise WorkerError(self._describe(call, f"no answer within {deadline:g} s")) from error
        except RayError as error:
            raise WorkerError(self._describe(call, _lost(error))) from error

    def _describe(self, call: str, reason: str) -> str:
        return f"cluster: {call} failed on one of {', '.join(self._names)}: {reason}; their logs are in {self._log_dir}"


def _one_line(error: BaseException) -> str:
    """Type and first line of an exception; the whole of it is in the log of the run."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {shorten(lines[0], _REASON_CHARS) if lines else 'no message'}"


def _lost(error: RayError) -> str:
    """Ray describes a dead worker in ten lines, which are in the log of the run."""
    pid = re.search(r"\bpid: (\d+)", str(error))
    what = "a worker process died" + (f" (process {pid[1]})" if pid else "")
    return f"{what}: Ray ended it, because the machine ran out of memory" if _out_of_memory(error) else what


def _out_of_memory(error: RayError) -> bool:
    return isinstance(error, OutOfMemoryError) or "running low on memory" in str(error)

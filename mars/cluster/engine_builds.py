"""Builds the engines in their worker processes, and rebuilds lost engines in new processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mars.cluster.engine_worker import BuildEngine
from mars.cluster.weights import BuildTransfer
from mars.cluster.worker_group import WorkerGroup
from mars.cluster.worker_images import ImageAccess
from mars.errors import ConfigError, DataError, SetupError, WorkerError

FAILED_BUILD = (WorkerError, SetupError, DataError, ConfigError)
"""Errors of a build. An interrupt of the run, which is a MarsError too, is none."""


class EngineBuilds:
    """The first build of all engines, and the builds of absent engines that are in progress.

    gpus: returns the GPUs of each engine. None unless these GPUs belong to trainer ranks.
    """

    timeout_s = 0.0  # until `finish_all`
    gpus: Callable[[], Sequence[Sequence[str]]] | None = None

    def __init__(self, group: WorkerGroup) -> None:
        self._group = group
        self._under_way: dict[int, Any] = {}  # Ray references

    def start_all(
        self,
        build_engine: BuildEngine,
        build_transfer: BuildTransfer,
        images: ImageAccess,
        gpus: Callable[[], Sequence[Sequence[str]]] | None,
    ) -> list[Any]:
        """As `RayEngine.start_build`."""
        self._builders, self.gpus = (build_engine, build_transfer, images), gpus
        return [self._start(engine) for engine in range(len(self._group.workers))]

    def finish_all(self, references: Sequence[Any], timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._group.results(references, "start of the engine", timeout_s)

    def __contains__(self, engine: object) -> bool:
        return engine in self._under_way

    def start(self, engine: int) -> None:
        """Start to build an engine. Does nothing if its build has started already."""
        if engine not in self._under_way:
            self._under_way[engine] = self._start(engine)

    def is_done(self, engine: int) -> bool:
        return engine in self._under_way and self._group.is_done(self._under_way[engine])

    def wait(self, engine: int) -> None:
        """Raises a MarsError if the build has failed, or is not done in time."""
        self._group.results([self._under_way[engine]], "build", self.timeout_s, first=engine)

    def forget(self, engine: int) -> None:
        self._under_way.pop(engine, None)

    def _start(self, engine: int) -> Any:
        worker = self._group.workers[engine]
        gpus = self.gpus()[engine] if self.gpus is not None else ()
        if gpus:
            worker.see_gpus.remote(gpus)
        return worker.build.remote(*self._builders)

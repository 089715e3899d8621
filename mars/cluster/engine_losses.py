"""Reports and counts engines that are lost, back, or left out."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mars.cluster.absent_engines import AbsentEngines
from mars.cluster.restarts import RestartBudget, WorkerReport
from mars.errors import MarsError, WorkerError

logger = logging.getLogger(__name__)


class EngineLosses:
    """Keeps `absent` up to date, and reports each change. name: of an engine."""

    def __init__(self, absent: AbsentEngines, name: Callable[[int], str], report: WorkerReport) -> None:
        self._absent, self._name, self._report = absent, name, report
        self.restarts = RestartBudget()

    def note(self, engine: int, error: WorkerError) -> None:
        """Count the loss of an engine only once, even if this is called again for it. All engines lost with one node
        count as one loss.

        Raises WorkerError if too many were lost in a row.
        """
        if not self._absent.note(engine):
            return
        self._report("worker_lost", self._name(engine), str(error))
        if self._absent.is_new_loss(engine):
            self.restarts.spend(error)
        else:
            self.restarts.count()
        logger.warning("%s; the engine is replaced, and its prompts are sampled again", error)

    def is_back(self, engine: int, reason: str) -> None:
        self._absent.remove(engine)
        self._report("worker_replaced", self._name(engine), reason)
        logger.info("%s works again", self._name(engine))

    def no_room(self, engine: int) -> None:
        """Report that the run goes on without the engine. Raises WorkerError if no engine is left."""
        others = self._absent.others()
        if not others:
            raise WorkerError(
                f"cluster: no engine is left, and no node had room for one within {self._absent.last_wait_s:g} s "
                "(cluster.start_timeout_s)"
            )
        reason = f"no node had room for {self._name(engine)} in time (cluster.replace_timeout_s)"
        self._report("engine_left_out", self._name(engine), reason)
        logger.warning("%s; engines that go on: %d; it is taken in when there is room", reason, len(others))

    def leave_alone(self, engine: int, where: str, error: MarsError) -> None:
        """Report an engine that cannot be built. It is not started again while others work. where: " on NODE" or ""."""
        self._absent.leave_alone(engine)
        reason = f"{self._name(engine)} cannot be built{where}: {error}"
        self._report("engine_left_out", self._name(engine), reason)
        logger.warning(
            "%s; engines that go on: %d; it is started again when the run is resumed",
            reason,
            len(self._absent.others()),
        )

"""How often lost workers are replaced before the run gives up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from mars.errors import WorkerError

MAX_RESTARTS = 3

WorkerEvent = Literal["worker_lost", "worker_replaced", "engine_left_out"]
WorkerReport = Callable[[WorkerEvent, str, str], None]
"""Called with what happened, the worker's name and the reason."""


def no_report(event: str, worker: str, reason: str) -> None:
    """A `WorkerReport` that keeps nothing."""


class RestartBudget:
    """Allows `limit` restarts in a row. Progress resets the count.

    >>> budget = RestartBudget(limit=1)
    >>> budget.spend(WorkerError("engine-0 died"))
    >>> budget.progress()
    >>> budget.spend(WorkerError("engine-0 died"))
    >>> budget.total
    2
    """

    def __init__(self, limit: int = MAX_RESTARTS) -> None:
        self._limit = limit
        self._in_a_row = 0
        self.total = 0

    def spend(self, error: WorkerError) -> None:
        """Count a restart because of `error`. Raises WorkerError if it is one too many."""
        if self._in_a_row == self._limit:
            raise WorkerError(f"{error}; given up after {self._limit} restarts in a row") from error
        self._in_a_row += 1
        self.total += 1

    def count(self) -> None:
        """Count a restart only in `total`, because its cause (such as a lost node) is counted already."""
        self.total += 1

    def progress(self) -> None:
        """Note that work was done since the last restart."""
        self._in_a_row = 0

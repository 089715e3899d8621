"""`Tracker`: the interface of everything that records a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mars.types import PromptRollouts


class Tracker(Protocol):
    """Records the metrics of every step and some of the rollouts. step: 0 is before training, 1 is the first step."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None: ...

    def close(self) -> None: ...


def start_allowance(timeout_s: float) -> float:
    """How many seconds a tracker may take to start, if a call may take `timeout_s`: three calls, and a minute to
    import its package. The import of mlflow took 42 s on a busy machine."""
    return 3 * timeout_s + 60.0


@runtime_checkable
class TellsFailures(Protocol):
    """A tracker that can record that its run has failed."""

    def close_failed(self) -> None:
        """Called instead of `Tracker.close` if the run did not reach its end."""
        ...


def close(tracker: Tracker, *, failed: bool) -> None:
    """Close a tracker. failed: whether the run did not reach its end."""
    if failed and isinstance(tracker, TellsFailures):
        tracker.close_failed()
    else:
        tracker.close()


@contextmanager
def closed_at_end(tracker: Tracker) -> Iterator[Tracker]:
    """Close the tracker at the end of the block. If the block raises, the run counts as failed."""
    failed = True
    try:
        yield tracker
        failed = False
    finally:
        close(tracker, failed=failed)


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker in `tracking.to` gets to know about the run.

    project, name: `tracking.project` and `run.name`. folder: `run.dir`. config: all settings, as nested mappings.
        In name and config the values of secret environment variables such as HF_TOKEN are replaced by their names.
    timeout_s: how long a call of the tracker may take; its start may take `start_allowance(timeout_s)`.
    resumed_step: the last step whose metrics a resumed run keeps; None for a new run.
    """

    project: str
    name: str
    folder: Path
    config: Mapping[str, Any]
    last_step: int
    timeout_s: float
    resumed_step: int | None

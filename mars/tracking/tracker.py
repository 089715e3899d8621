"""`Tracker`: the interface of everything that records a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mars.types import PromptRollouts


class Tracker(Protocol):
    """Records the metrics of every step and some of the rollouts. step: 0 is before training, 1 the first step."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker of `tracking.to` is told of the run.

    project, name: `tracking.project` and `run.name`. folder: `run.dir`. config: all settings, as nested mappings.
        In name and config the values of secret environment variables such as HF_TOKEN are replaced by their names.
    last_step: the number of the run's last step.
    timeout_s: how long a call of the tracker may take; its start may take three times as long.
    resumed_step: the last step whose metrics a resumed run keeps, None for a new run.
    """

    project: str
    name: str
    folder: Path
    config: Mapping[str, Any]
    last_step: int
    timeout_s: float
    resumed_step: int | None

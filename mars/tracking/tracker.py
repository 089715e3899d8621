"""`Tracker`: the interface of everything that records a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from mars.types import PromptRollouts


class Tracker(Protocol):
    """Records the metrics of every step and some of the rollouts. step: 0 is before training, 1 the first step."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None: ...

    def close(self) -> None: ...

"""A tracker that keeps everything in memory. For tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mars.types import PromptRollouts


class RecordingTracker:
    """A `Tracker`. metrics, rollouts: (step, what was logged), in order."""

    def __init__(self) -> None:
        self.metrics: list[tuple[int, Mapping[str, float]]] = []
        self.rollouts: list[tuple[int, Sequence[PromptRollouts]]] = []
        self.closed = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.metrics.append((step, dict(metrics)))

    def log_rollouts(self, rollouts: Sequence[PromptRollouts], step: int) -> None:
        self.rollouts.append((step, rollouts))

    def close(self) -> None:
        self.closed = True

"""The contract of a reward: one answer in, named parts out. Pure, no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mars.types import RewardInput, RewardResult


class RewardFn(Protocol):
    """Scores one answer. Anything it raises masks that sample and is counted."""

    def __call__(self, item: RewardInput) -> RewardResult: ...


class RewardScorer(Protocol):
    """Scores a batch of answers, in order. A failure is a `RewardResult` with `failed` set, never an exception."""

    def score(self, items: Sequence[RewardInput]) -> list[RewardResult]: ...

    def close(self) -> None: ...

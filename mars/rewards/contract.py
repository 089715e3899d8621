"""The contract of a reward: one answer in, named parts out. Pure, no tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

from mars.errors import ConfigError
from mars.types import RewardInput, RewardResult

ADDED_PARTS = ("overlong_penalty", "kl_penalty")
"""Parts that mars itself adds to a score after the reward function (mars/algorithms/penalties.py): names not to use."""

ScorerName = Literal["strict", "compat"]
"""Whose arithmetic the score of a built-in reward is: ours (the paper's formula) or that of the paper's public code."""


class RewardFn(Protocol):
    """Scores one answer. Anything it raises masks that sample and is counted."""

    def __call__(self, item: RewardInput) -> RewardResult: ...


class RewardScorer(Protocol):
    """Scores answers, in order. A failure is a `RewardResult` with `failed` set, never an exception."""

    def score(self, items: Iterable[RewardInput]) -> list[RewardResult]:
        """items: may be a stream that is waited for; what has come is scored meanwhile. Its exceptions pass through."""
        ...

    def close(self) -> None: ...


def failed_result(reason: str) -> RewardResult:
    """The result of a sample that could not be scored. Its numbers mean nothing: `failed` masks the sample."""
    return RewardResult(score=0.0, accuracy=0.0, parts={}, failed=reason)


def self_test(scorer: RewardScorer, items: Sequence[RewardInput]) -> None:
    """Scores a few real items before a run starts. Raises ConfigError when not one of them can be scored.

    A function that fails on some items only is left to the run, which masks and counts them.
    """
    failures = [result.failed for result in scorer.score(items) if result.failed is not None]
    if items and len(failures) == len(items):
        raise ConfigError(
            f"reward.function: failed on each of the {len(items)} items of its self-test; the first: {failures[0]}; "
            f"try it with one row of {items[0].data_source}"
        )

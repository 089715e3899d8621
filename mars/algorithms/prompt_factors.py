"""Advantages times a factor for each prompt, such as one that depends on how many of its responses are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mars.algorithms.advantages import Advantages
from mars.types import PromptRollouts, Rollout

RIGHT = 0.5
"""A response is right if its accuracy is at least this: 1 for most answers, the mean IoU for boxes."""


def is_right(rollout: Rollout) -> bool:
    """False for a response that could not be scored."""
    return rollout.valid and rollout.reward.accuracy >= RIGHT


def share_right(item: PromptRollouts) -> float:
    """The share of right responses among the valid multi rollouts, without guests; 0 if none is valid."""
    return sum(map(is_right, item.multi.valid)) / max(len(item.multi.valid), 1)


def scaled(base: Advantages, kept: Sequence[PromptRollouts], factors: Sequence[float]) -> Advantages:
    """`base` with the values of each prompt times its factor. kept, factors: one entry for each prompt of `base`.

    Weights stay: tokens whose advantage becomes 0 still count in the loss's denominator and have their KL term.
    """
    rows = [factor for item, factor in zip(kept, factors, strict=True) for _ in item.trained]
    return replace(base, values=base.values * base.values.new_tensor(rows))

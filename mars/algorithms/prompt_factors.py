"""Which responses to a prompt are right, and advantages multiplied by a factor for each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mars.algorithms.advantages import Advantages
from mars.types import PromptRollouts, Rollout

RIGHT_FROM = 0.5
"""Accuracy from which a response is right, for `anchor.allocation` and the metrics of guided groups. It is no setting
(decision 47). A recipe has its own `right_from`, and an evaluation counts hits above `evaluation.iou_threshold`."""


def is_right(rollout: Rollout, right_from: float) -> bool:
    """Whether the accuracy is at least `right_from`. False for a response that could not be scored."""
    return rollout.valid and rollout.reward.accuracy >= right_from


def right_share(item: PromptRollouts, right_from: float) -> float | None:
    """Share of the valid multi responses whose accuracy is at least `right_from`; None if no response is valid."""
    right = [is_right(rollout, right_from) for rollout in item.multi.valid]
    return sum(right) / len(right) if right else None


def is_unsolved(item: PromptRollouts, right_from: float) -> bool:
    """Whether no multi response is right."""
    return not any(is_right(rollout, right_from) for rollout in item.multi.rollouts)


def is_in_conflict(item: PromptRollouts, right_from: float) -> bool:
    """Whether an anchor is right and no multi response is."""
    anchors = (rollout for group in item.anchors for rollout in group.rollouts)
    return is_unsolved(item, right_from) and any(is_right(rollout, right_from) for rollout in anchors)


def scaled(base: Advantages, kept: Sequence[PromptRollouts], factors: Sequence[float]) -> Advantages:
    """`base` with the values of each prompt multiplied by its factor. kept, factors: one for each prompt of `base`.

    Weights stay: tokens whose advantage becomes 0 still count in the loss's denominator and have their KL term.
    """
    rows = [factor for item, factor in zip(kept, factors, strict=True) for _ in item.trained]
    return replace(base, values=base.values * base.values.new_tensor(rows))

"""EMA-GRPO of OneThinker: advantages divided by a moving standard deviation of the task's scores.

recipe.advantage: recipe/ema_grpo/functions.py:TaskDeviation
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import fmean, pstdev
from typing import Any

import torch

from mars.algorithms.advantages import Advantages
from mars.errors import ConfigError, DataError
from mars.hooks.contract import StepFacts
from mars.types import Prompt, PromptRollouts, Rollout

EPSILON = 1e-6
# The advantages must be score - mean, because this rule divides them.
NEEDS = {"algorithm.estimator": "group_norm", "algorithm.normalize_std": False, "algorithm.part_weights": {}}


@dataclass(frozen=True)
class Settings:
    """decay: of the moving averages in each step. min_std: smallest deviation of a task.

    guard: if division by the task's deviation gives a prompt an advantage whose absolute value is above this, all
    advantages of the prompt are divided by the deviation of its pool instead.
    task: the field of extra_info that names a row's task; null: its data_source.
    """

    decay: float
    min_std: float
    guard: float
    task: str | None

    def __post_init__(self) -> None:
        if not (0 <= self.decay < 1 and self.min_std > 0 and self.guard > 0):
            raise ValueError("want 0 <= decay < 1, min_std > 0 and guard > 0")


class TaskDeviation:
    """Divides the advantages of a prompt by the moving standard deviation of its task's scores, this step's included.

    moments: task -> moving averages of its scores and of their squares.
    """

    ramps = ("decay", "min_std", "guard")

    def __init__(self) -> None:
        self.moments: dict[str, tuple[float, float]] = {}

    def __call__(self, base: Advantages, kept: Sequence[PromptRollouts], facts: StepFacts) -> Advantages:
        settings, sizes = facts.settings, [len(item.trained) for item in kept]
        check_centred(base, kept)
        tasks = [task_of(item.prompt, settings.task) for item in kept]
        scores: dict[str, list[float]] = {}
        for task, item in zip(tasks, kept, strict=True):
            scores.setdefault(task, []).extend(rollout.reward.score for rollout in sampled(item))
        for task, found in scores.items():
            if found:
                self.moments[task] = moved(self.moments.get(task), found, settings.decay)
        values = [
            divided(own, deviation(self.moments[task], settings.min_std), pool_of(item), settings.guard)
            for own, task, item in zip(base.values.split(sizes), tasks, kept, strict=True)
            if len(own)
        ]
        return replace(base, values=torch.cat([base.values[:0], *values]))

    def state(self) -> Mapping[str, Any]:
        return {"moments": self.moments}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.moments = {task: (mean, square) for task, (mean, square) in state["moments"].items()}


def sampled(item: PromptRollouts) -> list[Rollout]:
    """The trained responses, without guests of `anchor.guide`, which were chosen because they scored high."""
    return [rollout for group in item.multi_groups if not group.is_copy for rollout in group.valid]


def moved(moments: tuple[float, float] | None, scores: Sequence[float], decay: float) -> tuple[float, float]:
    """The moving averages of the scores and of their squares, after one more step. Without earlier averages, the means
    over this step's scores.

    >>> moved(None, [0.0, 1.0], 0.75), moved((0.5, 0.5), [1.0], 0.75)
    ((0.5, 0.5), (0.625, 0.625))
    """
    step = fmean(scores), fmean(score * score for score in scores)
    if moments is None:
        return step
    return decay * moments[0] + (1 - decay) * step[0], decay * moments[1] + (1 - decay) * step[1]


def deviation(moments: tuple[float, float], min_std: float) -> float:
    return max(sqrt(max(moments[1] - moments[0] ** 2, 0.0)), min_std)


def divided(values: torch.Tensor, std: float, pool: Sequence[float], guard: float) -> torch.Tensor:
    """A prompt's values, divided by the task's std or, because of `guard` (`Settings`), by the std of its pool."""
    found = values / (std + EPSILON)
    return values / (pstdev(pool) + EPSILON) if bool((found.abs() > guard).any()) else found


def pool_of(item: PromptRollouts) -> list[float]:
    anchors = [rollout for group in item.pool_anchors for rollout in group.valid]
    return [rollout.reward.score for rollout in (*item.trained, *anchors)]


def check_centred(base: Advantages, kept: Sequence[PromptRollouts]) -> None:
    """Raises ConfigError unless each value is score - mean of the pool, or 0."""
    scores = base.values.new_tensor([rollout.reward.score for item in kept for rollout in item.trained])
    means = base.mean.repeat_interleave(torch.tensor([len(item.trained) for item in kept], dtype=torch.int64))
    if bool(((base.values - (scores - means)).abs() > 1e-9).logical_and(base.values != 0).any()):
        raise ConfigError(
            "recipe.advantage: ema_grpo:TaskDeviation wants score - mean as advantages; got those of another "
            "rule; name it first"
        )


def task_of(prompt: Prompt, field: str | None) -> str:
    found = prompt.data_source if field is None else prompt.extra_info.get(field)
    if not isinstance(found, str):
        raise DataError(f"{prompt.row}: extra_info.{field}: got {found!r}; give the name of the row's task")
    return found

"""Selects the prompts of a step that are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mars.algorithms.advantages import Advantages
from mars.errors import ConfigError


@dataclass(frozen=True)
class Selection:
    """keep: bool [P], the prompts to train on.

    num_undefined: number of prompts left out because they have no advantage (`with_advantage`).
    num_zero_signal: number of prompts left out because all their advantages are 0.
    """

    keep: Tensor
    num_undefined: int
    num_zero_signal: int


def select_prompts(
    advantages: Advantages, prompt_index: Tensor, rule: Literal["all", "nonzero_advantage"]
) -> Selection:
    """Keep or drop whole prompts. prompt_index: int64 [N], as for `group_advantages`.

    "all" keeps every prompt that has an advantage. "nonzero_advantage" keeps prompts with at least one advantage that
    is not 0 (dynamic sampling, DAPO, arXiv 2503.14476, section 3.2). The rule does not test the std of the rewards,
    because with anchors a group of equal multi rewards can have advantages that are not 0.

    Example: three prompts: the first has advantages (1, -1), the second (0, 0), and the third has only one reward, so
    no advantage. nonzero_advantage keeps the first; num_zero_signal = 1, num_undefined = 1.
    """
    if rule not in ("all", "nonzero_advantage"):
        raise ConfigError(f"algorithm.selection: unknown; got {rule}; use all or nonzero_advantage")
    defined = with_advantage(advantages, prompt_index)
    keep = defined if rule == "all" else has_signal(advantages, prompt_index)
    return Selection(
        keep=keep,
        num_undefined=int((~defined).sum()),
        num_zero_signal=int((defined & ~keep).sum()),
    )


def with_advantage(advantages: Advantages, prompt_index: Tensor) -> Tensor:
    """Prompts with enough valid rewards for statistics and a multi rollout or guest of weight above 0: bool [P]."""
    trained = prompt_index[advantages.weights > 0]
    return advantages.defined & (torch.bincount(trained, minlength=len(advantages.defined)) > 0)


def has_signal(advantages: Advantages, prompt_index: Tensor) -> Tensor:
    """Prompts with any advantage that is not 0: bool [P]."""
    nonzero = prompt_index[advantages.values != 0]
    return torch.bincount(nonzero, minlength=len(advantages.defined)) > 0

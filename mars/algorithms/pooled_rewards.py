"""The rewards of a step as tensors, so that driver and trainer take the same advantages from the same numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mars.algorithms.advantages import Advantages, AdvantageSettings, group_advantages
from mars.types import PromptRollouts, TrainPrompt, view_name


@dataclass(frozen=True)
class PooledRewards:
    """Rewards of N responses and M anchor rollouts of P prompts; only valid ones.

    rewards: float64 [N]. prompt_index: int64 [N], the position of each response's prompt. Rows follow the order of
    the prompts and, within a prompt, of its responses. anchor_rewards, anchor_prompt_index: [M], likewise.
    """

    rewards: Tensor
    prompt_index: Tensor
    anchor_rewards: Tensor
    anchor_prompt_index: Tensor
    num_prompts: int

    def __post_init__(self) -> None:
        if self.rewards.shape != self.prompt_index.shape or self.anchor_rewards.shape != self.anchor_prompt_index.shape:
            raise ValueError("every reward needs a prompt index")

    @classmethod
    def of_rollouts(cls, prompts: Sequence[PromptRollouts]) -> PooledRewards:
        """On the driver, for selection and metrics: multi rollouts against all anchor groups."""
        return cls._of((prompt.multi.valid_scores, prompt.anchor_scores) for prompt in prompts)

    @classmethod
    def of_batch(cls, prompts: Sequence[TrainPrompt]) -> PooledRewards:
        """In the trainer: every response of the batch, in order, against the anchor rewards."""
        return cls._of(
            (tuple(response.reward for response in prompt.responses), prompt.anchor_rewards) for prompt in prompts
        )

    @classmethod
    def _of(cls, prompts: Iterable[tuple[Sequence[float], Sequence[float]]]) -> PooledRewards:
        pairs = list(prompts)
        rewards, index = _flatten([multi for multi, _ in pairs])
        anchor_rewards, anchor_index = _flatten([anchors for _, anchors in pairs])
        return cls(rewards, index, anchor_rewards, anchor_index, len(pairs))

    def advantages(self, settings: AdvantageSettings) -> Advantages:
        return group_advantages(
            self.rewards,
            self.prompt_index,
            self.anchor_rewards,
            self.anchor_prompt_index,
            self.num_prompts,
            settings,
        )


@dataclass(frozen=True)
class AnchorViews:
    """Which view each anchor reward of `PooledRewards.of_rollouts` came from: names[index[k]], index int64 [M]."""

    names: tuple[str, ...]
    index: Tensor

    @classmethod
    def of_rollouts(cls, prompts: Sequence[PromptRollouts]) -> AnchorViews:
        labels = [
            view_name(group.request.view) for prompt in prompts for group in prompt.anchors for _ in group.valid_scores
        ]
        names = tuple(sorted(set(labels)))
        position = {name: i for i, name in enumerate(names)}
        return cls(names, torch.tensor([position[label] for label in labels], dtype=torch.int64))


def _flatten(groups: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    values = torch.tensor([value for group in groups for value in group], dtype=torch.float64)
    index = torch.tensor([i for i, group in enumerate(groups) for _ in group], dtype=torch.int64)
    return values, index

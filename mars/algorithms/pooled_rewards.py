"""The rewards of sampled prompts as tensors, and the advantages computed from them, given back to the prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mars.algorithms.advantages import Advantages, AdvantageSettings, advantages_outside, group_advantages
from mars.types import PromptRollouts, Rollout, RolloutGroup, SampledPrompt, view_name


@dataclass(frozen=True)
class PooledRewards:
    """Rewards of the N valid multi rollouts, guests included, and the M valid anchor rollouts of P prompts.

    rewards: float64 [N], of `PromptRollouts.trained`. prompt_index: int64 [N], the position of each rollout's prompt.
    Rows follow the order of the prompts and, within a prompt, of its rollouts. anchor_rewards, anchor_prompt_index:
    [M], likewise. in_pool: bool [N], False for guests that are in no pool (`ExtraFacts.in_pool`).
    """

    rewards: Tensor
    prompt_index: Tensor
    anchor_rewards: Tensor
    anchor_prompt_index: Tensor
    num_prompts: int
    in_pool: Tensor

    def __post_init__(self) -> None:
        if self.rewards.shape != self.prompt_index.shape or self.anchor_rewards.shape != self.anchor_prompt_index.shape:
            raise ValueError("there must be one prompt index for every reward")

    @classmethod
    def of_rollouts(cls, prompts: Sequence[PromptRollouts]) -> PooledRewards:
        return cls.of_values(prompts, lambda rollout: rollout.reward.score)

    @classmethod
    def of_values(cls, prompts: Sequence[PromptRollouts], value: Callable[[Rollout], float]) -> PooledRewards:
        """As `of_rollouts`, but with `value(rollout)` in place of each valid rollout's score."""
        rewards, index = _flatten([[value(r) for r in prompt.trained] for prompt in prompts])
        anchor_rewards, anchor_index = _flatten(
            [[value(r) for group in prompt.anchors for r in group.valid] for prompt in prompts]
        )
        in_pool = [_in_pool(group) for prompt in prompts for group in prompt.multi_groups for _ in group.valid]
        return cls(rewards, index, anchor_rewards, anchor_index, len(prompts), torch.tensor(in_pool, dtype=torch.bool))

    def of_pool(self) -> PooledRewards:
        """Without the rewards that are in no pool."""
        rows = self.in_pool
        return replace(self, rewards=self.rewards[rows], prompt_index=self.prompt_index[rows], in_pool=rows[rows])

    def advantages(self, settings: AdvantageSettings) -> Advantages:
        """`group_advantages` of the rewards in the pool, with the others' `advantages_outside`: float64."""
        pool = self.of_pool()
        anchors = self.anchor_rewards, self.anchor_prompt_index
        found = group_advantages(pool.rewards, pool.prompt_index, *anchors, self.num_prompts, settings)
        outside = ~self.in_pool
        if not bool(outside.any()):
            return found
        spread, index = pool.rewards, pool.prompt_index
        if settings.pooled_statistics == "mean_and_std":
            spread, index = torch.cat([spread, self.anchor_rewards]), torch.cat([index, self.anchor_prompt_index])
        values = torch.zeros_like(self.rewards)
        values[self.in_pool] = found.values
        rows = self.rewards[outside], self.prompt_index[outside]
        values[outside] = advantages_outside(*rows, spread, index, found, settings)
        return replace(found, values=values, weights=found.defined[self.prompt_index].to(values.dtype))


def with_advantages(prompts: Sequence[PromptRollouts], advantages: Advantages) -> list[SampledPrompt]:
    """Each prompt with the advantages and weights of its own multi rollouts.

    advantages: computed from `PooledRewards.of_rollouts` of the same prompts. Raises RuntimeError if their number
    differs from that of the valid multi rollouts.
    """
    sizes = [len(prompt.trained) for prompt in prompts]
    values, weights = advantages.values.split(sizes), advantages.weights.split(sizes)
    return [
        SampledPrompt(prompt, tuple(own_values.tolist()), tuple(own_weights.tolist()))
        for prompt, own_values, own_weights in zip(prompts, values, weights, strict=True)
    ]


def with_own_groups(
    prompts: Sequence[SampledPrompt], advantages: Callable[[Sequence[PromptRollouts]], Advantages]
) -> list[SampledPrompt]:
    """The prompts with advantages and weights of the extra groups that are trained with their own prompts.

    Such a group is a prompt without anchors: its advantages come from its own rewards. advantages: computes them.
    """
    own = [PromptRollouts(item.rollouts.prompt, group, ()) for item in prompts for group in item.rollouts.own_groups]
    if not own:
        return list(prompts)
    found = iter(with_advantages(own, advantages(own)))
    return [replace(item, own_groups=tuple(next(found) for _ in item.rollouts.own_groups)) for item in prompts]


def truncated_rows(prompts: Sequence[PromptRollouts]) -> Tensor:
    """Which rewards of `PooledRewards.of_rollouts` are of a response that was cut at the token limit: bool [N]."""
    cut = [r.completion.finish_reason == "length" for prompt in prompts for r in prompt.trained]
    return torch.tensor(cut, dtype=torch.bool)


@dataclass(frozen=True)
class AnchorViews:
    """Which view each anchor reward of `PooledRewards.of_rollouts` came from: names[index[k]], index int64 [M]."""

    names: tuple[str, ...]
    index: Tensor

    @classmethod
    def of_rollouts(cls, prompts: Sequence[PromptRollouts]) -> AnchorViews:
        labels = [view_name(group.request.view) for prompt in prompts for group in prompt.anchors for _ in group.valid]
        names = tuple(sorted(set(labels)))
        position = {name: i for i, name in enumerate(names)}
        return cls(names, torch.tensor([position[label] for label in labels], dtype=torch.int64))


def _in_pool(group: RolloutGroup) -> bool:
    extra = group.request.extra
    return extra is None or extra.in_pool


def _flatten(groups: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    values = torch.tensor([value for group in groups for value in group], dtype=torch.float64)
    index = torch.tensor([i for i, group in enumerate(groups) for _ in group], dtype=torch.int64)
    return values, index

"""The rewards of sampled prompts as tensors, and the prompts with the advantages computed from these rewards."""

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

    rewards: float64 [N], of `PromptRollouts.trained`. Rows follow the order of the prompts, then of the rollouts.
    prompt_index: int64 [N], the position of each rollout's prompt.
    anchor_rewards, anchor_prompt_index: likewise, [M].
    in_pool: bool [N], False for guests that are in no pool (`ExtraFacts.in_pool`).
    of_anchor: bool [N], True for guests that are anchor rollouts (`anchor.guide`). Metrics count them as anchors.
    pool_anchors: rewards and prompt indices of the anchors in the pool, if these are not the M anchors; else None.
    """

    rewards: Tensor
    prompt_index: Tensor
    anchor_rewards: Tensor
    anchor_prompt_index: Tensor
    num_prompts: int
    in_pool: Tensor
    of_anchor: Tensor
    pool_anchors: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        if self.rewards.shape != self.prompt_index.shape or self.anchor_rewards.shape != self.anchor_prompt_index.shape:
            raise ValueError("there must be one prompt index for every reward")

    @classmethod
    def of_rollouts(cls, prompts: Sequence[PromptRollouts]) -> PooledRewards:
        return cls.of_values(prompts, lambda rollout: rollout.reward.score)

    @classmethod
    def of_values(cls, prompts: Sequence[PromptRollouts], value: Callable[[Rollout], float]) -> PooledRewards:
        """Like `of_rollouts`, but with `value(rollout)` in place of each valid rollout's score."""
        rewards, index = _flatten([[value(r) for r in prompt.trained] for prompt in prompts])

        def of_anchors(anchors: Callable[[PromptRollouts], Sequence[RolloutGroup]]) -> tuple[Tensor, Tensor]:
            return _flatten([[value(r) for group in anchors(prompt) for r in group.valid] for prompt in prompts])

        groups = [group for prompt in prompts for group in prompt.multi_groups for _ in group.valid]
        in_pool, of_anchor = (
            torch.tensor([is_true(group) for group in groups], dtype=torch.bool) for is_true in (_in_pool, _is_copy)
        )
        differs = any(prompt.other_pool is not None for prompt in prompts)
        pool_anchors = of_anchors(lambda prompt: prompt.pool_anchors) if differs else None
        anchors = of_anchors(lambda prompt: prompt.anchors)
        return cls(rewards, index, *anchors, len(prompts), in_pool, of_anchor, pool_anchors)

    def of_pool(self) -> PooledRewards:
        """The same, without the rewards that are in no pool."""
        return self._rows(self.in_pool)

    def of_multi(self) -> PooledRewards:
        """The same, without guests that are in no pool or are anchor rollouts. `anchor_rewards` stays as it is."""
        return self._rows(self.in_pool & ~self.of_anchor)

    def _rows(self, rows: Tensor) -> PooledRewards:
        names = ("rewards", "prompt_index", "in_pool", "of_anchor")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def advantages(self, settings: AdvantageSettings) -> Advantages:
        """`group_advantages` of the rewards in the pool, and `advantages_outside` of the other rewards: float64.

        `gain`: mean multi reward - mean reward of all anchors of the prompt, in the pool or not. `multi_share`: number
        of multi rewards in the pool / size of the pool.
        """
        pool = self.of_pool()
        anchors = self.pool_anchors or (self.anchor_rewards, self.anchor_prompt_index)
        found = group_advantages(pool.rewards, pool.prompt_index, *anchors, self.num_prompts, settings)
        if self.pool_anchors is not None:
            found = replace(found, **self._of_multi_alone(*anchors))
        outside = ~self.in_pool
        if not bool(outside.any()):
            return found
        spread, index = pool.rewards, pool.prompt_index
        if settings.pooled_statistics == "mean_and_std":
            spread, index = torch.cat([spread, anchors[0]]), torch.cat([index, anchors[1]])
        values = torch.zeros_like(self.rewards)
        values[self.in_pool] = found.values
        rows = self.rewards[outside], self.prompt_index[outside]
        values[outside] = advantages_outside(*rows, spread, index, found, settings)
        return replace(found, values=values, weights=found.defined[self.prompt_index].to(values.dtype))

    def _of_multi_alone(self, anchor_rewards: Tensor, anchor_index: Tensor) -> dict[str, Tensor]:
        """`gain` and `multi_share` of `Advantages`, for pools whose anchors are not simply the prompt's own: they come
        from other prompts, or some of the prompt's anchors are in the pool as guests (`anchor.guide`)."""
        multi, pool = self.of_multi(), self.of_pool()
        counts = [torch.bincount(i, minlength=self.num_prompts) for i in (multi.prompt_index, pool.prompt_index)]
        in_pool = counts[1] + torch.bincount(anchor_index, minlength=self.num_prompts)
        means = _means(multi.rewards, multi.prompt_index, self.num_prompts)
        anchor_means = _means(self.anchor_rewards, self.anchor_prompt_index, self.num_prompts)
        return {"gain": means - anchor_means, "multi_share": counts[0].double() / in_pool}


def with_advantages(prompts: Sequence[PromptRollouts], advantages: Advantages) -> list[SampledPrompt]:
    """Each prompt with the advantages and weights of its valid multi rollouts and guests (`PromptRollouts.trained`).

    advantages: computed from `PooledRewards.of_rollouts` of the same prompts. Raises RuntimeError if their number
    differs from the number of these rollouts.
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
    """The prompts with advantages and weights of their own groups (`PromptRollouts.own_groups`).

    Each own group counts as a prompt without anchors: its advantages come from its own rewards.
    """
    own = [PromptRollouts(item.rollouts.prompt, group, ()) for item in prompts for group in item.rollouts.own_groups]
    if not own:
        return list(prompts)
    found = iter(with_advantages(own, advantages(own)))
    return [replace(item, own_groups=tuple(next(found) for _ in item.rollouts.own_groups)) for item in prompts]


def truncated_rows(prompts: Sequence[PromptRollouts]) -> Tensor:
    """Which rewards of `PooledRewards.of_rollouts` belong to a response that was cut at the token limit: bool [N]."""
    cut = [r.completion.finish_reason == "length" for prompt in prompts for r in prompt.trained]
    return torch.tensor(cut, dtype=torch.bool)


@dataclass(frozen=True)
class AnchorViews:
    """The view of each anchor reward of `PooledRewards.of_rollouts`: names[index[k]] for reward k; index: int64 [M]."""

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


def _is_copy(group: RolloutGroup) -> bool:
    return group.is_copy


def _means(values: Tensor, index: Tensor, num_groups: int) -> Tensor:
    """The mean of each group, NaN for an empty one: float64."""
    sums = torch.zeros(num_groups, dtype=torch.float64).index_add_(0, index, values)
    return sums / torch.bincount(index, minlength=num_groups)


def _flatten(groups: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    values = torch.tensor([value for group in groups for value in group], dtype=torch.float64)
    index = torch.tensor([i for i, group in enumerate(groups) for _ in group], dtype=torch.int64)
    return values, index

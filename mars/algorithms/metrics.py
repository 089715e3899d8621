"""Metrics of the method over one step's rewards and advantages, such as information gain and conflict rate."""

from __future__ import annotations

import torch
from torch import Tensor

from mars.algorithms.advantages import Advantages
from mars.algorithms.pooled_rewards import AnchorViews, PooledRewards
from mars.algorithms.selection import has_signal, with_advantage
from mars.algorithms.tolerance import SCORE_TOLERANCE


def method_metrics(rewards: PooledRewards, views: AnchorViews, advantages: Advantages) -> dict[str, float]:
    """Metrics of one step, over all prompts that were sampled in it (before any selection). Shares are in [0, 1].

    Rewards and means are equal if they differ by SCORE_TOLERANCE or less. Guests that are not in the pool, and guests
    of `anchor.guide`, count only in critic/advantages, mars/frac_zero_signal and mars/frac_undefined; guests of
    `anchor.guide` also in mars/lambda.

    critic/rewards/mean|min|max       the rewards of the multi rollouts and of the guests not named above
    critic/advantages/mean|min|max    over responses of weight 1; in one prompt the mean is (1 - lambda) gain / std
    reward/frac_zero_std              share of prompts whose multi rewards are all equal
    mars/frac_zero_signal             share of prompts whose advantages are all 0, or that have none
    mars/frac_undefined               share of prompts without an advantage: too few valid rewards, or no multi response
                                      or guest of weight above 0
    and over the prompts that have both multi and anchor rewards:
    mars/lambda                       mean share of the multi rewards in the pool, G / (G + M); with `anchor.guide` M is
                                      the number of guests
    mars/gain/mean|std                information gain: mean multi reward - mean anchor reward; std is unbiased
    mars/conflict_rate                share of prompts whose multi mean is below their best anchor view's mean
    mars/anchor/<view>/mean           mean reward of that view's rollouts

    A metric without values is left out: mars/gain without anchors, gain/std with fewer than two prompts.

    Example: multi 1, 0 (mean 0.5); infrared 1, visible 0: gain 0, conflict_rate 1, lambda 0.5.
    """
    multi = rewards.of_multi()
    metrics = _spread("critic/rewards", multi.rewards)
    metrics |= _spread("critic/advantages", advantages.values[advantages.weights > 0])
    if rewards.num_prompts:
        metrics["mars/frac_zero_signal"] = _mean(~has_signal(advantages, rewards.prompt_index))
        metrics["mars/frac_undefined"] = _mean(~with_advantage(advantages, rewards.prompt_index))
    low, high = _extremes(multi.rewards, multi.prompt_index, multi.num_prompts)
    sampled = low <= high
    if sampled.any():
        metrics["reward/frac_zero_std"] = _mean((high - low <= SCORE_TOLERANCE)[sampled])
    both = ~advantages.gain.isnan()
    if both.any():
        gain = advantages.gain[both]
        metrics["mars/lambda"] = _mean(advantages.multi_share[both])
        metrics["mars/gain/mean"] = _mean(gain)
        if len(gain) > 1:
            metrics["mars/gain/std"] = float(gain.std())
        metrics |= _view_metrics(multi, views, both)
    return metrics


def _view_metrics(rewards: PooledRewards, views: AnchorViews, both: Tensor) -> dict[str, float]:
    shape = (rewards.num_prompts, len(views.names))
    cell = rewards.anchor_prompt_index * len(views.names) + views.index
    sums = rewards.anchor_rewards.new_zeros(shape).view(-1).index_add_(0, cell, rewards.anchor_rewards).view(shape)
    counts = torch.bincount(cell, minlength=sums.numel()).view(shape)
    best = torch.where(counts > 0, sums / counts, -torch.inf).max(dim=1).values

    multi_sums = torch.zeros_like(best).index_add_(0, rewards.prompt_index, rewards.rewards)
    multi_mean = multi_sums / torch.bincount(rewards.prompt_index, minlength=rewards.num_prompts)
    source_means = sums[both].sum(dim=0) / counts[both].sum(dim=0)
    metrics = {
        f"mars/anchor/{name}/mean": float(mean)
        for name, mean in zip(views.names, source_means, strict=True)
        if not mean.isnan()
    }
    metrics["mars/conflict_rate"] = _mean((multi_mean < best - SCORE_TOLERANCE)[both])
    return metrics


def _extremes(values: Tensor, index: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of each group; (inf, -inf) for an empty one."""
    low = values.new_full((num_groups,), torch.inf).scatter_reduce_(0, index, values, "amin")
    high = values.new_full((num_groups,), -torch.inf).scatter_reduce_(0, index, values, "amax")
    return low, high


def _spread(name: str, values: Tensor) -> dict[str, float]:
    if not len(values):
        return {}
    return {f"{name}/mean": _mean(values), f"{name}/min": float(values.min()), f"{name}/max": float(values.max())}


def _mean(values: Tensor) -> float:
    return float(values.double().mean())

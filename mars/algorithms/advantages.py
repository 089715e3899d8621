"""Group-relative advantages, computed for many prompts at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from mars.algorithms.tolerance import SCORE_TOLERANCE
from mars.errors import ConfigError
from mars.types import MAX_SCORE


@dataclass(frozen=True)
class AdvantageSettings:
    """How the rewards of a prompt become advantages. The combinations in use:

    GRPO: group_norm, normalize_std (arXiv 2402.03300, section 4.1). Dr. GRPO: group_norm, not normalize_std
    (arXiv 2503.20783, section 3.2). RLOO: leave_one_out, not normalize_std (arXiv 2402.14740, section 2.2).

    pooled_statistics: the statistics that include the anchor rewards. "mean_and_std": both, over multi and anchor
        rewards together (MARS, arXiv 2605.25437). "mean": the baseline only; the std is that of the multi rewards. That
        std may be 0 or tiny while the anchors shift the baseline: use "mean" with a std_floor.
    unbiased_std: True: divide the sum of squares by N - 1; False: by N.
    std_floor: lower bound of the std, in units of the reward. epsilon: added to the std after the floor.
    """

    estimator: Literal["group_norm", "leave_one_out"]
    normalize_std: bool
    pooled_statistics: Literal["mean_and_std", "mean"]
    unbiased_std: bool
    std_floor: float
    epsilon: float

    def __post_init__(self) -> None:
        if self.estimator not in ("group_norm", "leave_one_out"):
            raise ConfigError(f"algorithm.estimator: unknown; got {self.estimator}; use group_norm or leave_one_out")
        if self.pooled_statistics not in ("mean_and_std", "mean"):
            raise ConfigError(
                f"anchor.pooled_statistics: unknown; got {self.pooled_statistics}; use mean_and_std or mean"
            )


@dataclass(frozen=True)
class Advantages:
    """Advantages of N responses in P prompts, and the statistics they came from.

    values: [N], 0 where the weight is 0, the pool's rewards are equal, or all multi rewards equal the pool's mean.
    weights: [N], 1, or 0 where the prompt has too few rewards for statistics or the response is left out (`without`).
    defined: bool [P], True for the prompts that have enough rewards for statistics.
    mean: float64 [P], the pool's mean. leave_one_out subtracts the mean of the pool's other rewards instead.
    std: float64 [P], the std in the divisor, before floor and epsilon.
    gain: float64 [P], mean multi reward - mean anchor reward; NaN where either is missing.
    multi_share: float64 [P], lambda = G / (G + M); NaN for a prompt without rewards.
    """

    values: Tensor
    weights: Tensor
    defined: Tensor
    mean: Tensor
    std: Tensor
    gain: Tensor
    multi_share: Tensor

    def without(self, rows: Tensor) -> Advantages:
        """The same advantages, but with weight and value 0 in `rows` (bool [N]). Statistics still count these
        responses."""
        values, weights = (torch.where(rows, 0.0, tensor) for tensor in (self.values, self.weights))
        return replace(self, values=values, weights=weights)

    @classmethod
    def joined(cls, parts: Sequence[Advantages]) -> Advantages:
        """The advantages of several rounds, concatenated. Raises ValueError if `parts` is empty."""
        return cls(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)})


def group_advantages(
    rewards: Tensor,
    prompt_index: Tensor,
    anchor_rewards: Tensor,
    anchor_prompt_index: Tensor,
    num_prompts: int,
    settings: AdvantageSettings,
) -> Advantages:
    """Advantages of the multi rollouts against the pool U of multi and anchor rewards of their prompt.

        group_norm     A_i = r_i - mean(U)
        leave_one_out  A_i = r_i - mean(U without r_i)

    With normalize_std, both are divided by max(std, std_floor) + epsilon. std is that of U if pooled_statistics is
    "mean_and_std", and that of the multi rewards if it is "mean".

    rewards: [N]. prompt_index: int64 [N] in [0, num_prompts). anchor_rewards, anchor_prompt_index: likewise, [M].
    Rows in any order, groups of any size. Without anchors this is the plain estimator. A prompt with fewer than two
    rewards in U has weight 0. If the divisor is the std of the multi rewards, the same holds for a prompt with fewer
    than two multi rewards.

    All advantages of a prompt are exactly 0 if max(U) - min(U) <= SCORE_TOLERANCE, or if every multi reward is within
    SCORE_TOLERANCE of mean(U): such differences are rounding, which the division by std(U) would enlarge.
    Raises ValueError for a reward not within -MAX_SCORE to MAX_SCORE. Callers leave failed rollouts out.
    Computed in float64, summed in row order; values and weights are returned in the rewards' dtype. On the CPU a
    prompt's advantages are therefore bit-identical, whatever other prompts are in the call.

    Example: multi rewards 1 and 0, one anchor reward 0.5: mean 0.5, std 0.5, advantages +1 and -1.
    >>> group_advantages(torch.tensor([1.0, 0.0]), torch.tensor([0, 0]), torch.tensor([0.5]), torch.tensor([0]), 1,
    ...     AdvantageSettings("group_norm", True, "mean_and_std", True, 0.0, 0.0)).values.tolist()
    [1.0, -1.0]
    """
    dtype = rewards.dtype if rewards.is_floating_point() else torch.float64
    multi = _Group.of(rewards, prompt_index, num_prompts)
    anchors = _Group.of(anchor_rewards, anchor_prompt_index, num_prompts)
    pool = _Group.of(
        torch.cat([multi.rewards, anchors.rewards]), torch.cat([prompt_index, anchor_prompt_index]), num_prompts
    )
    _within_bounds(pool.rewards)
    spread = pool if settings.pooled_statistics == "mean_and_std" else multi
    std = spread.std(settings.unbiased_std)
    defined = pool.count >= 2
    if settings.normalize_std:
        defined = defined & (spread.count >= 2)
    deviation = multi.rewards - pool.mean[prompt_index]
    differs = torch.bincount(prompt_index[deviation.abs() > SCORE_TOLERANCE], minlength=num_prompts) > 0
    informative = (defined & differs & ~pool.all_equal())[prompt_index]
    if settings.estimator == "leave_one_out":
        deviation = deviation * (pool.count / (pool.count - 1).clamp(min=1))[prompt_index]
    if settings.normalize_std:
        deviation = deviation / (std.clamp(min=settings.std_floor) + settings.epsilon)[prompt_index]
    return Advantages(
        values=torch.where(informative, deviation, 0.0).to(dtype),
        weights=defined[prompt_index].to(dtype),
        defined=defined,
        mean=pool.mean,
        std=std,
        gain=multi.mean - anchors.mean,
        multi_share=multi.count / pool.count,
    )


def advantages_outside(
    rewards: Tensor,
    prompt_index: Tensor,
    spread: Tensor,
    spread_index: Tensor,
    pool: Advantages,
    settings: AdvantageSettings,
) -> Tensor:
    """Advantages of responses that are trained with a prompt but are not in its pool U: float64 [N].

        with normalize_std      A_i = (r_i - mean(U)) / (max(std(S and r_i), std_floor) + epsilon)
        without normalize_std   A_i = r_i - mean(U)

    S: the rewards by whose std the advantages of the responses in U are divided: U, or the multi rewards if
    pooled_statistics is "mean". r_i is added to S, because the std of S alone may be 0. With n rewards in S = U and
    unbiased_std, A_i is therefore at most sqrt(n + 1).

    rewards: [N]. prompt_index: int64 [N], as for `group_advantages`. spread, spread_index: S of all prompts, likewise.
    pool: the advantages of the responses in U. A_i is 0 where |r_i - mean(U)| <= SCORE_TOLERANCE, or where the prompt
    has too few rewards for statistics (`Advantages.defined`). Raises ValueError as `group_advantages` does.

    Example: eight rewards of 0 in the pool, r_i = 1: the std of the nine is 1/3, the advantage 3.
    >>> pool = group_advantages(torch.zeros(8), torch.zeros(8).long(), torch.zeros(0), torch.zeros(0).long(), 1,
    ...     (how := AdvantageSettings("group_norm", True, "mean_and_std", True, 0.0, 0.0)))
    >>> round(float(advantages_outside(torch.ones(1), torch.zeros(1).long(), torch.zeros(8), torch.zeros(8).long(),
    ...     pool, how)), 6)
    3.0
    """
    rewards = _within_bounds(rewards.double())
    deviation = rewards - pool.mean[prompt_index]
    counts = pool.defined[prompt_index] & (deviation.abs() > SCORE_TOLERANCE)
    if settings.normalize_std:
        group = _Group.of(spread, spread_index, len(pool.mean))
        std = group.std_with(rewards, prompt_index, settings.unbiased_std)
        deviation = deviation / (std.clamp(min=settings.std_floor) + settings.epsilon)
    return torch.where(counts, deviation, 0.0)


def _within_bounds(rewards: Tensor) -> Tensor:
    if not bool((rewards.abs() <= MAX_SCORE).all()):  # NaN is refused too
        raise ValueError(f"rewards must be within -{MAX_SCORE:g} to {MAX_SCORE:g}")
    return rewards


@dataclass(frozen=True)
class _Group:
    """Rewards grouped by prompt, with the size and mean of each group: float64. An empty group's mean is NaN.

    index: int64, the prompt of each reward.
    """

    rewards: Tensor
    index: Tensor
    count: Tensor
    mean: Tensor

    @classmethod
    def of(cls, rewards: Tensor, index: Tensor, num_prompts: int) -> _Group:
        rewards = rewards.double()
        count = torch.bincount(index, minlength=num_prompts).double()
        sums = rewards.new_zeros(num_prompts).index_add_(0, index, rewards)
        return cls(rewards, index, count, sums / count)

    def std(self, unbiased: bool) -> Tensor:
        """The std of each group: float64 [P]. 0 where the group is too small to have one."""
        return (self._squares() / (self.count - int(unbiased)).clamp(min=1)).sqrt()

    def std_with(self, rewards: Tensor, index: Tensor, unbiased: bool) -> Tensor:
        """For each of `rewards` [K]: the std of its group (`index`) with this reward added."""
        count, distance = self.count[index], rewards - self.mean[index]
        squares = self._squares()[index] + distance.square() * count / (count + 1)
        return (squares / (count + 1 - int(unbiased)).clamp(min=1)).sqrt()

    def _squares(self) -> Tensor:
        """The sum of the squared distances from the mean."""
        squares = (self.rewards - self.mean[self.index]).square_()
        return torch.zeros_like(self.mean).index_add_(0, self.index, squares)

    def all_equal(self) -> Tensor:
        low = torch.zeros_like(self.mean).scatter_reduce_(0, self.index, self.rewards, "amin", include_self=False)
        high = torch.zeros_like(self.mean).scatter_reduce_(0, self.index, self.rewards, "amax", include_self=False)
        return high - low <= SCORE_TOLERANCE

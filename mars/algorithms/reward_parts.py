"""Advantages of rewards with several parts: each part is normalised by itself, then weighted and summed (GDPO, arXiv
2601.05242).

GRPO normalises the sum of the parts. Different combinations of parts can have the same sum, and the part with the
largest spread dominates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import fsum, sqrt

import torch

from mars.algorithms.advantages import Advantages, AdvantageSettings
from mars.algorithms.penalties import KL_PART, OVERLONG_PART
from mars.algorithms.pooled_rewards import PooledRewards
from mars.algorithms.tolerance import SCORE_TOLERANCE
from mars.errors import ConfigError
from mars.types import MAX_SCORE, PromptRollouts, Rollout, SampledPrompt, view_name


def part_advantages(
    prompts: Sequence[PromptRollouts],
    weights: Mapping[str, float],
    settings: AdvantageSettings,
    added: Sequence[str] = (),
) -> Advantages:
    """Advantages of the prompts' valid multi rollouts and guests, before `batch_normalized`.

        A_i = sum over the parts k of weight_k * A_ik  +  (p_i - mean(P))

    A_ik: the advantage that `PooledRewards.advantages` gives for part k alone, over the prompt's pool.
    p_i: what was added to the score (overlong and KL penalty, and the parts `added` by hooks). P: all p_i in the pool;
    with leave_one_out, without p_i itself.
    p_i is not divided by a standard deviation, so that it keeps the size that penalties and hooks gave it:
    1 counts as much as one standard deviation of a part of weight 1. If |A_i| is at most SCORE_TOLERANCE, A_i
    becomes 0, because it is the rounding of parts that cancel out.

    weights: part -> weight, not empty. The score itself is not used in A_i. It only gives the statistics of the result
    (mean, std, gain), which are for metrics. Raises ConfigError if a valid rollout lacks a part, or has one beyond
    MAX_SCORE.

    Example: parts a = (1, 0) and b = (0, 1) of two rollouts, weights 1 and 0.5: A_a = (0.707, -0.707), A_b the
    opposite, A = (0.354, -0.354).
    """
    rows = {item.prompt.prompt_id: item.prompt.row for item in prompts}
    base = PooledRewards.of_rollouts(prompts).advantages(settings)

    def values(value: Callable[[Rollout], float], how: AdvantageSettings) -> torch.Tensor:
        return PooledRewards.of_values(prompts, value).advantages(how).values

    total = torch.zeros_like(base.values)
    for part, weight in weights.items():
        total += weight * values(lambda rollout, part=part: _part(rollout, part, rows), settings)
    total += values(
        lambda rollout: _sum_of((OVERLONG_PART, KL_PART, *added), rollout), replace(settings, normalize_std=False)
    )
    counts = (base.weights > 0) & (total.abs() > SCORE_TOLERANCE)
    return replace(base, values=torch.where(counts, total, 0.0))


def batch_normalized(kept: Sequence[SampledPrompt], settings: AdvantageSettings) -> tuple[list[SampledPrompt], float]:
    """The prompts of a step with their advantages divided by s + epsilon, and s.

    s is the root mean square of the advantages of all responses with a weight above 0 (with unbiased_std, the sum of
    squares is divided by their number - 1); 0 without such responses. Without anchors the mean is 0, and s is the
    standard deviation of GDPO. GDPO subtracts the batch's mean. Here it is not subtracted, because with anchors that
    would remove the information gain.

    Example: advantages (3, -3) and (1, -1), unbiased: s = sqrt(20 / 3) = 2.582.
    """
    groups = [one for item in kept for one in (item, *item.own_groups)]
    trained = [a for one in groups for a, weight in zip(one.advantages, one.weights, strict=True) if weight > 0]
    scale = sqrt(fsum(a * a for a in trained) / max(len(trained) - int(settings.unbiased_std), 1))
    divisor = scale + settings.epsilon

    def divided(item: SampledPrompt) -> SampledPrompt:
        values = tuple(a / divisor for a in item.advantages)
        return replace(item, advantages=values, own_groups=tuple(map(divided, item.own_groups)))

    return list(map(divided, kept)), scale


def _part(rollout: Rollout, part: str, rows: Mapping[str, str]) -> float:
    parts = rollout.reward.parts
    asked = view_name(rollout.view) if rollout.extra is None else f"extra request {rollout.extra}"
    where = f"a response to {rows[rollout.prompt_id]} ({asked})"
    if part not in parts:
        raise ConfigError(
            f"algorithm.part_weights: the reward of {where} has no part {part}; "
            f"got {', '.join(sorted(parts)) or 'none'}; name parts that every response has"
        )
    if not abs(parts[part]) <= MAX_SCORE:
        raise ConfigError(
            f"algorithm.part_weights: part {part} of {where} is not in [-{MAX_SCORE:g}, {MAX_SCORE:g}]; "
            f"got {parts[part]}; scale it in the reward function"
        )
    return parts[part]


def _sum_of(names: Sequence[str], rollout: Rollout) -> float:
    return sum(rollout.reward.parts.get(name, 0.0) for name in names)

"""Penalties, which are added to the scores of multi rollouts, guests, anchors and own groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from statistics import fmean

import torch
from torch import Tensor

from mars.errors import ConfigError, NumericalError
from mars.types import MAX_SCORE, PromptRollouts, RewardResult, RolloutGroup

OVERLONG_PART = "overlong_penalty"
KL_PART = "kl_penalty"


@dataclass(frozen=True)
class OverlongPenalty:
    """The penalty of long responses: lengths in tokens; factor in units of the reward."""

    max_response_tokens: int
    buffer_tokens: int
    factor: float


def overlong_penalty(
    response_tokens: Tensor, max_response_tokens: int, buffer_tokens: int, penalty_factor: float
) -> Tensor:
    """Soft penalty of long responses (DAPO, arXiv 2503.14476, section 3.4): 0 up to the buffer, then linear.

        min(-(length - (max_response_tokens - buffer_tokens)) / buffer_tokens * penalty_factor, 0)

    response_tokens: integers [N]. Returns float64 [N], in units of the reward. Raises ConfigError unless
    0 < buffer_tokens <= max_response_tokens.

    Example: at most 100 tokens, buffer 20, factor 1: 80 tokens 0, 90 tokens -0.5, 100 tokens -1.
    """
    if not 0 < buffer_tokens <= max_response_tokens:
        raise ConfigError(
            f"algorithm.overlong_buffer_tokens: must be in 1..rollout.max_response_tokens={max_response_tokens}; "
            f"got {buffer_tokens}"
        )
    excess = response_tokens.double() - (max_response_tokens - buffer_tokens)
    return (-excess / buffer_tokens * penalty_factor).clamp(max=0.0)


def with_overlong_penalty(prompts: Sequence[PromptRollouts], overlong: OverlongPenalty) -> list[PromptRollouts]:
    """The rollouts, with `overlong_penalty` added to valid scores in `groups(prompt)` and recorded as a reward part."""
    lengths = [
        len(rollout.completion.token_ids) for item in prompts for group in groups(item) for rollout in group.rollouts
    ]
    penalties = overlong_penalty(
        torch.tensor(lengths, dtype=torch.int64), overlong.max_response_tokens, overlong.buffer_tokens, overlong.factor
    )
    return add_to_scores(prompts, OVERLONG_PART, penalties.tolist())


def with_kl_penalty(
    prompts: Sequence[PromptRollouts], kl: Sequence[Sequence[float]], coefficient: float
) -> list[PromptRollouts]:
    """The same rollouts, with -coefficient * KL added to every valid score and recorded as a reward part.

    kl: for each group that has a valid rollout, the KL of each of its valid rollouts, in nats, summed over the tokens.
    They are in the order of the prompts, of their `groups` and of the groups' rollouts. A rollout whose KL is not
    finite becomes a failed one (`add_to_scores`). Raises NumericalError if no KL is finite.
    """
    if any(kl) and not any(isfinite(value) for group in kl for value in group):
        raise NumericalError(
            f"algorithm.kl_coefficient: the KL to the reference model is not finite in all "
            f"{sum(map(len, kl))} responses, probably because the policy's weights are not finite; "
            "lower actor.learning_rate"
        )
    values = (value for group in kl for value in group)
    rollouts = [rollout for item in prompts for group in groups(item) for rollout in group.rollouts]
    penalties = [-coefficient * next(values) if rollout.valid else 0.0 for rollout in rollouts]
    if next(values, None) is not None:
        raise ValueError("there are more KL values than valid rollouts")
    return add_to_scores(prompts, KL_PART, penalties)


def add_to_scores(prompts: Sequence[PromptRollouts], part: str, amounts: Iterable[float]) -> list[PromptRollouts]:
    """Add an amount to each rollout's score and record it as the reward part `part`; failed rollouts stay as they are.

    A rollout whose new score is NaN or not within -MAX_SCORE to MAX_SCORE becomes a failed rollout.

    amounts: one for each rollout, failed ones included, in the order of the prompts, of their `groups` and of the
    groups' rollouts.
    """
    remaining = iter(amounts)

    def added(group: RolloutGroup) -> RolloutGroup:
        rollouts = []
        for rollout in group.rollouts:
            amount, reward = next(remaining), rollout.reward
            if rollout.valid:
                reward = _added(reward, part, amount)
            rollouts.append(replace(rollout, reward=reward))
        return replace(group, rollouts=tuple(rollouts))

    return [replaced_groups(item, [added(group) for group in groups(item)]) for item in prompts]


def _added(reward: RewardResult, part: str, amount: float) -> RewardResult:
    score = reward.score + amount
    if not abs(score) <= MAX_SCORE:
        reason = f"score with {part} is not in [-{MAX_SCORE:g}, {MAX_SCORE:g}]; got {score}"
        return RewardResult(score=0.0, accuracy=0.0, parts={}, failed=reason)
    return replace(reward, score=score, parts={**reward.parts, part: amount})


def score_metrics(prompts: Sequence[PromptRollouts]) -> dict[str, float]:
    """critic/score/mean|min|max of the valid multi rollouts: the score before a KL term, with the overlong penalty."""
    rewards = [rollout.reward for item in prompts for rollout in item.multi.rollouts if rollout.valid]
    scores = [reward.score - reward.parts.get(KL_PART, 0.0) for reward in rewards]
    if not scores:
        return {}
    return {"critic/score/mean": fmean(scores), "critic/score/min": min(scores), "critic/score/max": max(scores)}


def groups(item: PromptRollouts) -> Iterator[RolloutGroup]:
    """The groups to whose scores amounts are added: the multi group, its guests, the anchors, then the own groups."""
    yield from item.multi_groups
    yield from item.anchors
    yield from item.own_groups


def replaced_groups(item: PromptRollouts, changed: Sequence[RolloutGroup]) -> PromptRollouts:
    """The prompt with `changed` in place of `groups(item)`. Its groups of role "signal" stay."""
    found = {group.request.key: group for group in changed}
    anchors, extras = (
        tuple(found.get(group.request.key, group) for group in some) for some in (item.anchors, item.extras)
    )
    return replace(item, multi=changed[0], anchors=anchors, extras=extras)

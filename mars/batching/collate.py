"""Rollouts to what the trainer takes: the batch a step trains on, and batches that are scored only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mars.batching.plan import Packing, plan_updates
from mars.types import PromptRollouts, RolloutGroup, RolloutRequest, TrainBatch, TrainPrompt, TrainResponse


def train_batch(
    kept: Sequence[PromptRollouts],
    num_carried: int,
    *,
    prompt_length: Callable[[RolloutRequest], int],
    prompts_per_update: int,
    num_ranks: int,
    tokens_per_forward: int,
    packing: Packing,
) -> TrainBatch:
    """Whole prompts in the given order, each with its valid multi responses and its valid anchor rewards.

    num_carried: of the first so many prompts, which were sampled in an earlier step.
    Failed rollouts are left out. A prompt whose multi responses all failed has nothing to train on and is left out.
    Anchor rewards come from the prompt's own groups, so no order of prompts can mix them up.
    prompt_length: tokens of a request's prompt in the model's forward, images expanded.
    Raises ValueError if a prompt comes twice or a multi group shows a part of the sources.
    """
    ids = [item.prompt.prompt_id for item in kept]
    if len(set(ids)) != len(ids):
        twice = sorted({prompt_id for prompt_id in ids if ids.count(prompt_id) > 1})
        raise ValueError(f"prompts come twice in one batch: {twice}")
    candidates = (
        replace(_train_prompt(item, prompt_length), carried=position < num_carried)
        for position, item in enumerate(kept)
    )
    prompts = tuple(prompt for prompt in candidates if prompt.responses)
    return TrainBatch(prompts, plan_updates(prompts, prompts_per_update, num_ranks, tokens_per_forward, packing))


def scoring_batch(
    rollouts: Sequence[PromptRollouts],
    *,
    prompt_length: Callable[[RolloutRequest], int],
    num_ranks: int,
    tokens_per_forward: int,
    packing: Packing,
) -> TrainBatch:
    """Every group that has a valid rollout, multi and anchor, as a prompt of its own in one plan over all ranks.

    For log-probs of all rollouts, which nothing is trained on: there are no anchor rewards.
    """
    groups = [group for item in rollouts for group in (item.multi, *item.anchors)]
    candidates = (_responses_of(group, prompt_length, anchor_rewards=()) for group in groups)
    prompts = tuple(prompt for prompt in candidates if prompt.responses)
    updates = plan_updates(prompts, max(len(prompts), 1), num_ranks, tokens_per_forward, packing)
    return TrainBatch(prompts, updates)


def _train_prompt(item: PromptRollouts, prompt_length: Callable[[RolloutRequest], int]) -> TrainPrompt:
    request = item.multi.request
    if request.view is not None:
        raise ValueError(f"prompt {request.prompt_id}: the multi group has view {request.view}")
    return _responses_of(item.multi, prompt_length, item.anchor_scores)


def _responses_of(
    group: RolloutGroup, prompt_length: Callable[[RolloutRequest], int], anchor_rewards: tuple[float, ...]
) -> TrainPrompt:
    request = group.request
    responses = tuple(
        TrainResponse(
            token_ids=rollout.completion.token_ids,
            rollout_logprobs=rollout.completion.logprobs,
            reward=rollout.reward.score,
        )
        for rollout in group.rollouts
        if rollout.valid
    )
    return TrainPrompt(
        prompt_id=request.prompt_id,
        prompt_token_ids=request.prompt_token_ids,
        num_prompt_tokens=prompt_length(request),
        images=request.images,
        responses=responses,
        anchor_rewards=anchor_rewards,
    )

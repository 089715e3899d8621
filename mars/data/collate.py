"""Kept rollouts to the batch a step trains on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mars.data.balance import plan_updates
from mars.types import PromptRollouts, RolloutRequest, TrainBatch, TrainPrompt, TrainResponse


def train_batch(
    kept: Sequence[PromptRollouts],
    *,
    prompt_length: Callable[[RolloutRequest], int],
    prompts_per_update: int,
    num_ranks: int,
    tokens_per_forward: int,
) -> TrainBatch:
    """Whole prompts in the given order, each with its valid multi responses and its valid anchor rewards.

    Failed rollouts are left out. A prompt whose multi responses all failed has nothing to train on and is left out.
    Anchor rewards come from the prompt's own groups, so no order of prompts can mix them up.
    prompt_length: tokens of a request's prompt in the model's forward, images expanded.
    Raises ValueError if a prompt comes twice or a multi group shows a part of the sources.
    """
    ids = [item.prompt.prompt_id for item in kept]
    if len(set(ids)) != len(ids):
        twice = sorted({prompt_id for prompt_id in ids if ids.count(prompt_id) > 1})
        raise ValueError(f"prompts come twice in one batch: {twice}")
    candidates = (_train_prompt(item, prompt_length) for item in kept)
    prompts = tuple(prompt for prompt in candidates if prompt.responses)
    return TrainBatch(prompts, plan_updates(prompts, prompts_per_update, num_ranks, tokens_per_forward))


def _train_prompt(item: PromptRollouts, prompt_length: Callable[[RolloutRequest], int]) -> TrainPrompt:
    request = item.multi.request
    if request.view is not None:
        raise ValueError(f"prompt {request.prompt_id}: the multi group has view {request.view}")
    responses = tuple(
        TrainResponse(
            token_ids=rollout.completion.token_ids,
            rollout_logprobs=rollout.completion.logprobs,
            reward=rollout.reward.score,
        )
        for rollout in item.multi.rollouts
        if rollout.valid
    )
    return TrainPrompt(
        prompt_id=request.prompt_id,
        prompt_token_ids=request.prompt_token_ids,
        num_prompt_tokens=prompt_length(request),
        images=request.images,
        responses=responses,
        anchor_rewards=item.anchor_scores,
    )

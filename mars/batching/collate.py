"""Makes the trainer's batches from rollouts: one to train on, and one to measure the KL to the reference model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mars.batching.plan import Packing, plan_updates
from mars.train_types import TrainBatch, TrainPrompt, TrainResponse
from mars.types import PromptRollouts, Rollout, RolloutRequest, SampledPrompt


def train_batch(
    kept: Sequence[SampledPrompt],
    *,
    prompt_length: Callable[[RolloutRequest], int],
    prompts_per_update: int,
    num_ranks: int,
    tokens_per_forward: int,
    packing: Packing,
) -> TrainBatch:
    """Whole prompts in the given order, each with its valid multi responses, their advantages and weights.

    Failed rollouts and responses of weight 0 are left out, and so is a prompt that then has no response.
    prompt_length: number of tokens in a request's prompt in the model's forward, images expanded.
    Raises ValueError if a prompt is there twice or a multi group does not show all sources.
    """
    ids = [item.rollouts.prompt.prompt_id for item in kept]
    if len(set(ids)) != len(ids):
        twice = sorted({prompt_id for prompt_id in ids if ids.count(prompt_id) > 1})
        raise ValueError(f"prompts are in one batch twice: {twice}")
    candidates = (_train_prompt(item, prompt_length) for item in kept)
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

    `PolicyTrainer.kl_to_reference` scores all rollouts with it. Nothing is trained on it: every weight is 0.
    """
    groups = (group for item in rollouts for group in (item.multi, *item.anchors) if group.valid)
    prompts = tuple(
        _prompt_of(group.request, prompt_length, (_response(rollout, 0.0, 0.0) for rollout in group.valid))
        for group in groups
    )
    updates = plan_updates(prompts, max(len(prompts), 1), num_ranks, tokens_per_forward, packing)
    return TrainBatch(prompts, updates)


def _train_prompt(item: SampledPrompt, prompt_length: Callable[[RolloutRequest], int]) -> TrainPrompt:
    multi = item.rollouts.multi
    if multi.request.view is not None:
        raise ValueError(f"prompt {multi.request.prompt_id}: the multi group has view {multi.request.view}")
    rows = zip(multi.valid, item.advantages, item.weights, strict=True)
    responses = (_response(rollout, advantage, weight) for rollout, advantage, weight in rows if weight != 0)
    return _prompt_of(multi.request, prompt_length, responses, carried=item.carried)


def _response(rollout: Rollout, advantage: float, weight: float) -> TrainResponse:
    return TrainResponse(rollout.completion.token_ids, rollout.completion.logprobs, advantage, weight)


def _prompt_of(
    request: RolloutRequest,
    prompt_length: Callable[[RolloutRequest], int],
    responses: Iterable[TrainResponse],
    carried: bool = False,
) -> TrainPrompt:
    return TrainPrompt(
        prompt_id=request.prompt_id,
        prompt_token_ids=request.prompt_token_ids,
        num_prompt_tokens=prompt_length(request),
        images=request.images,
        responses=tuple(responses),
        carried=carried,
    )

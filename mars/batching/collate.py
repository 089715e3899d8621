"""Makes the trainer's batches from rollouts: batches to train on, and batches that are only scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from mars.batching.plan import plan_updates
from mars.extra_facts import ExtraFacts
from mars.train_types import Packing, TrainBatch, TrainPrompt, TrainResponse
from mars.types import PromptRollouts, Rollout, RolloutGroup, RolloutRequest, SampledPrompt


def train_batch(
    kept: Sequence[SampledPrompt],
    *,
    prompt_length: Callable[[RolloutRequest], int],
    prompts_per_update: int,
    num_ranks: int,
    tokens_per_forward: int,
    packing: Packing,
) -> TrainBatch:
    """The batch to train on: whole prompts in the given order, each with its valid responses, advantages and weights.

    A prompt is followed by its own groups (`own_groups`). A prompt and its own groups are in the same update, and count
    as one prompt of it. Failed rollouts and responses of weight 0 are left out, and so is a prompt or own group that
    then has no response.

    prompt_length: number of tokens in a request's prompt in the model's forward, images expanded.
    Raises ValueError if a prompt is there twice or a multi group does not show all sources.
    """
    ids = [item.rollouts.prompt.prompt_id for item in kept]
    if len(set(ids)) != len(ids):
        twice = sorted({prompt_id for prompt_id in ids if ids.count(prompt_id) > 1})
        raise ValueError(f"prompts are in one batch twice: {twice}")
    whole = [
        [
            made
            for one in (item, *item.own_groups)
            if (made := _train_prompt(one, item.carried, prompt_length)).responses
        ]
        for item in kept
    ]
    prompts, sizes = tuple(chain.from_iterable(whole)), [len(some) for some in whole if some]
    updates = plan_updates(prompts, prompts_per_update, num_ranks, tokens_per_forward, packing, sizes=sizes)
    return TrainBatch(prompts, updates)


def _scored_groups(item: PromptRollouts) -> tuple[RolloutGroup, ...]:
    return (*item.multi_groups, *item.anchors, *item.own_groups)


def scoring_batch(
    rollouts: Sequence[PromptRollouts],
    groups_of: Callable[[PromptRollouts], Sequence[RolloutGroup]] = _scored_groups,
    *,
    prompt_length: Callable[[RolloutRequest], int],
    num_ranks: int,
    tokens_per_forward: int,
    packing: Packing,
) -> TrainBatch:
    """A batch of one update over all ranks, in which every group that has a valid rollout is a prompt of its own.

    groups_of: the groups of a prompt; by default all but signals. Guests are scored as responses to the prompt that
    they are trained with. All responses are scored at the temperature of the multi responses.

    The batch is for `PolicyTrainer.score_responses`: every weight is 0.
    """
    rows = ((item.multi.request if group.role == "guest" else group.request, group, item) for item in rollouts
            for group in groups_of(item) if group.valid)  # fmt: skip
    prompts = tuple(
        _prompt_of(
            request,
            prompt_length,
            (_response(rollout, 0.0, 0.0) for rollout in group.valid),
            item.multi.request.sampling.temperature,
        )
        for request, group, item in rows
    )
    updates = plan_updates(prompts, max(len(prompts), 1), num_ranks, tokens_per_forward, packing)
    return TrainBatch(prompts, updates)


def _train_prompt(item: SampledPrompt, carried: bool, prompt_length: Callable[[RolloutRequest], int]) -> TrainPrompt:
    request, members = item.rollouts.multi.request, item.rollouts.multi_groups
    if request.view is not None and request.extra is None:
        raise ValueError(f"prompt {request.prompt_id}: the multi group has view {request.view}")
    extras = (group.request.extra if group.role == "guest" else None for group in members for _ in group.valid)
    rows = zip(item.rollouts.trained, item.advantages, item.weights, extras, strict=True)
    responses = (_response(*row) for row in rows if row[2] != 0)
    return _prompt_of(request, prompt_length, responses, request.sampling.temperature, carried)


def _response(rollout: Rollout, advantage: float, weight: float, guest: ExtraFacts | None = None) -> TrainResponse:
    tokens, logprobs = rollout.completion.token_ids, rollout.completion.logprobs
    if guest is None:
        return TrainResponse(tokens, logprobs, advantage, weight)
    return TrainResponse(tokens, logprobs, advantage, weight, True, guest.bounded, is_guest=guest.of_anchor)


def _prompt_of(
    request: RolloutRequest,
    prompt_length: Callable[[RolloutRequest], int],
    responses: Iterable[TrainResponse],
    temperature: float,
    carried: bool = False,
) -> TrainPrompt:
    return TrainPrompt(
        prompt_id=request.prompt_id,
        prompt_token_ids=request.prompt_token_ids,
        num_prompt_tokens=prompt_length(request),
        images=request.images,
        responses=tuple(responses),
        temperature=temperature,
        carried=carried,
    )

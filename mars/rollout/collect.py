"""Completions to scored rollouts, put back to their prompts by id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mars.types import (
    Completion,
    Prompt,
    PromptRollouts,
    RewardInput,
    RewardResult,
    Rollout,
    RolloutGroup,
    RolloutRequest,
    View,
)

Size = tuple[int, int]
BoxFrames = Callable[[Prompt, View], tuple[Size | None, Size | None]]
"""(truth_size, response_size) of a view, as in `RewardInput`."""


class Scorer(Protocol):
    def score(self, items: Sequence[RewardInput]) -> list[RewardResult]: ...


def collect(
    prompts: Sequence[Prompt],
    requests: Sequence[RolloutRequest],
    completions: Sequence[Sequence[Completion]],
    *,
    decode: Callable[[Sequence[int]], str],
    frames: BoxFrames,
    scorer: Scorer,
) -> list[PromptRollouts]:
    """All rollouts of each prompt, in the order of `prompts`; every response is scored in one call.

    completions: for each request its samples. Raises ValueError if a prompt lacks its multi request or a request
    lacks samples.
    """
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    texts = [[decode(completion.token_ids) for completion in samples] for samples in completions]
    items = [
        reward_input(by_id[request.prompt_id], request.view, text, frames)
        for request, samples in zip(requests, texts, strict=True)
        for text in samples
    ]
    results = iter(scorer.score(items))
    groups: dict[str, dict[View, RolloutGroup]] = {prompt_id: {} for prompt_id in by_id}
    for request, samples, sample_texts in zip(requests, completions, texts, strict=True):
        if len(samples) != request.num_samples:
            raise ValueError(f"{len(samples)} of {request.num_samples} samples for prompt {request.prompt_id}")
        rollouts = tuple(
            Rollout(request.prompt_id, request.view, k, text, completion, next(results))
            for k, (completion, text) in enumerate(zip(samples, sample_texts, strict=True))
        )
        groups[request.prompt_id][request.view] = RolloutGroup(request, rollouts)
    return [_prompt_rollouts(prompt, groups[prompt.prompt_id]) for prompt in prompts]


def _prompt_rollouts(prompt: Prompt, groups: dict[View, RolloutGroup]) -> PromptRollouts:
    if None not in groups:
        raise ValueError(f"prompt {prompt.prompt_id} has no multi rollouts")
    anchors = tuple(group for view, group in groups.items() if view is not None)
    return PromptRollouts(prompt, groups[None], anchors)


def reward_input(prompt: Prompt, view: View, text: str, frames: BoxFrames) -> RewardInput:
    """What the reward function sees of one answer to one view."""
    truth_size, response_size = frames(prompt, view)
    return RewardInput(
        data_source=prompt.data_source,
        view=view,
        response=text,
        truth=prompt.truth,
        truth_size=truth_size,
        response_size=response_size,
        extra_info=prompt.extra_info,
    )

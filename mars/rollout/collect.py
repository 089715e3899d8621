"""From the engine's stream to scored rollouts, each under its prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from mars.rollout.engine import FinishedSample
from mars.types import (
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
    def score(self, items: Iterable[RewardInput]) -> list[RewardResult]: ...


@dataclass(frozen=True)
class ScoredSample:
    """A finished sample with its text and its reward."""

    sample: FinishedSample
    text: str
    reward: RewardResult


def score_stream(
    prompts: Sequence[Prompt],
    requests: Sequence[RolloutRequest],
    finished: Iterable[Iterable[FinishedSample]],
    *,
    decode: Callable[[Sequence[int]], str],
    frames: BoxFrames,
    scorer: Scorer,
) -> list[ScoredSample]:
    """finished: the engine's stream. The scorer gets each sample when it comes, while others are being generated."""
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    taken: list[tuple[FinishedSample, str]] = []

    def items() -> Iterator[RewardInput]:
        for sample in chain.from_iterable(finished):
            text = decode(sample.completion.token_ids)
            taken.append((sample, text))
            request = requests[sample.request]
            yield reward_input(by_id[request.prompt_id], request.view, text, frames)

    results = scorer.score(items())
    return [ScoredSample(sample, text, reward) for (sample, text), reward in zip(taken, results, strict=True)]


def collect(
    prompts: Sequence[Prompt], requests: Sequence[RolloutRequest], scored: Iterable[ScoredSample]
) -> list[PromptRollouts]:
    """All rollouts of each prompt in the order of `prompts`, whatever the order of `requests` and of `scored`.

    Raises ValueError if a request does not have each of its samples once, or a prompt lacks its multi request.
    """
    rollouts: list[dict[int, Rollout]] = [{} for _ in requests]
    for item in scored:
        request, k = requests[item.sample.request], item.sample.index
        if k in rollouts[item.sample.request]:
            raise ValueError(f"sample {k} of prompt {request.prompt_id}, view {request.view}, came twice")
        rollouts[item.sample.request][k] = Rollout(
            request.prompt_id, request.view, k, item.text, item.sample.completion, item.reward
        )
    groups: dict[str, dict[View, RolloutGroup]] = {prompt.prompt_id: {} for prompt in prompts}
    for request, by_index in zip(requests, rollouts, strict=True):
        if sorted(by_index) != list(range(request.num_samples)):
            raise ValueError(
                f"samples {sorted(by_index)} of {request.num_samples} for prompt {request.prompt_id}, "
                f"view {request.view}"
            )
        members = tuple(by_index[k] for k in range(request.num_samples))
        groups[request.prompt_id][request.view] = RolloutGroup(request, members)
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

"""From the engine's stream of samples to scored rollouts, grouped by prompt, view and extra request."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol

from mars import faults
from mars.answers.record import BoxFrames, Size, reward_input
from mars.extra_facts import ExtraFacts
from mars.rollout.engine import FinishedSample, UnreadableRequest
from mars.types import (
    Prompt,
    PromptRollouts,
    RewardInput,
    RewardResult,
    Rollout,
    RolloutGroup,
    RolloutRequest,
    Source,
    View,
)

NOT_SCORED = "not scored: its extra request has no truth"


class Scorer(Protocol):
    def score(self, items: Iterable[RewardInput | tuple[RewardInput, ...]]) -> list[RewardResult]: ...


@dataclass(frozen=True)
class ScoredSample:
    """A finished sample with its text and its reward."""

    sample: FinishedSample
    text: str
    reward: RewardResult


@dataclass(frozen=True)
class ScoredStream:
    """unreadable: prompt id -> why an image cannot be read."""

    samples: Sequence[ScoredSample]
    unreadable: Mapping[str, str]


def score_stream(
    prompts: Sequence[Prompt],
    requests: Sequence[RolloutRequest],
    finished: Iterable[Iterable[FinishedSample | UnreadableRequest]],
    *,
    decode: Callable[[Sequence[int]], str],
    frames: BoxFrames,
    scorer: Scorer,
    step: int,
    by_prompt: bool = False,
) -> ScoredStream:
    """Decode and score the engine's stream `finished`. Each sample goes to the scorer as soon as it is generated.

    by_prompt: all samples of a prompt go together, as soon as the last one is generated, in the order of `requests`.
    step: training step, for reward functions. The samples of an extra request are scored against its own truth. These
    samples skip the scorer if the request has no truth, or if a recipe gave the response as text, with its score.
    """
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    frames = _once_per_view(frames)
    taken: list[tuple[FinishedSample, str]] = []
    given: dict[int, RewardResult] = {}
    unreadable: dict[str, str] = {}

    def samples() -> Iterator[FinishedSample]:
        for sample in chain.from_iterable(finished):
            faults.point("step.samples")
            if isinstance(sample, UnreadableRequest):
                unreadable.setdefault(requests[sample.request].prompt_id, sample.reason)
            else:
                yield sample

    def inputs(some: Iterable[FinishedSample]) -> Iterator[RewardInput]:
        for sample in some:
            request = requests[sample.request]
            text = decode(sample.completion.token_ids)
            taken.append((sample, text))
            if request.extra is not None and (reward := _given_reward(request.extra)) is not None:
                given[len(taken) - 1] = reward
            else:
                yield reward_input(by_id[request.prompt_id], request.view, text, frames, step, request)

    if by_prompt:
        together = (tuple(inputs(some)) for some in _whole_prompts(samples(), requests))
        results = scorer.score(some for some in together if some)
    else:
        results = scorer.score(inputs(samples()))
    asked = (i for i in range(len(taken)) if i not in given)
    rewards = {**given, **dict(zip(asked, results, strict=True))}
    return ScoredStream([ScoredSample(*sample, rewards[i]) for i, sample in enumerate(taken)], unreadable)


def _whole_prompts(
    samples: Iterable[FinishedSample], requests: Sequence[RolloutRequest]
) -> Iterator[list[FinishedSample]]:
    """The samples of each prompt, in the order of the requests. Yields them when the prompt's last sample has come."""
    missing: Counter[str] = Counter()
    for request in requests:
        missing[request.prompt_id] += request.num_samples
    found: defaultdict[str, list[FinishedSample]] = defaultdict(list)
    for sample in samples:
        prompt_id = requests[sample.request].prompt_id
        found[prompt_id].append(sample)
        missing[prompt_id] -= 1
        if missing[prompt_id] == 0:
            yield sorted(found.pop(prompt_id), key=lambda sample: (sample.request, sample.index))


def _given_reward(extra: ExtraFacts) -> RewardResult | None:
    """The result of a sample that no reward function scores; None if a reward function scores it."""
    if extra.score is not None:
        return RewardResult(extra.score, 0.0, {})
    return RewardResult(0.0, 0.0, {}, failed=NOT_SCORED) if extra.truth is None else None


def _once_per_view(frames: BoxFrames) -> BoxFrames:
    """`frames` with a cache: the sizes of a view are computed only for its first sample."""
    known: dict[tuple[str, View, tuple[Source, ...]], tuple[Size | None, Size | None]] = {}

    def remembered(prompt: Prompt, view: View) -> tuple[Size | None, Size | None]:
        key = prompt.prompt_id, view, prompt.sources[:1]  # in an extra request, the first image may be another
        if key not in known:
            known[key] = frames(prompt, view)
        return known[key]

    return remembered


def collect(
    prompts: Sequence[Prompt],
    requests: Sequence[RolloutRequest],
    scored: Iterable[ScoredSample],
    unreadable: Collection[str] = (),
) -> list[PromptRollouts]:
    """All rollouts of each prompt, in the order of `prompts`; `requests` and `scored` may be in any order.

    unreadable: ids of prompts that are left out with all their views, even if some samples exist.
    Raises ValueError if a sample of a request is missing, unexpected or there twice, if two requests have the same key,
    or if a prompt has no multi request.
    """
    groups = _groups(requests, scored, unreadable)
    readable = (prompt for prompt in prompts if prompt.prompt_id not in unreadable)
    return [_prompt_rollouts(prompt, groups[prompt.prompt_id]) for prompt in readable]


def with_further(
    rollouts: Sequence[PromptRollouts],
    requests: Sequence[RolloutRequest],
    scored: Iterable[ScoredSample],
    unreadable: Collection[str],
) -> list[PromptRollouts]:
    """`rollouts`, with further samples in the multi groups. Their indices go on after those of the group.

    requests: at most one for each prompt (`RolloutPlan.further`). Other arguments and errors as for `collect`.
    """
    groups = _groups(requests, scored, unreadable)
    readable = (item for item in rollouts if item.prompt.prompt_id not in unreadable)
    return [replace(item, multi=_continued(item.multi, groups[item.prompt.prompt_id])) for item in readable]


def _continued(multi: RolloutGroup, further: Sequence[RolloutGroup]) -> RolloutGroup:
    first = len(multi.rollouts)
    added = tuple(replace(rollout, index=first + rollout.index) for group in further for rollout in group.rollouts)
    return RolloutGroup(replace(multi.request, num_samples=first + len(added)), (*multi.rollouts, *added))


def with_following(
    rollouts: Sequence[PromptRollouts],
    requests: Sequence[RolloutRequest],
    scored: Iterable[ScoredSample],
    unreadable: Collection[str],
) -> list[PromptRollouts]:
    """The rollouts with further groups: those of the extra requests that were made after the rollouts were scored.
    Arguments and errors as for `collect`."""
    groups = _groups(requests, scored, unreadable)
    readable = (item for item in rollouts if item.prompt.prompt_id not in unreadable)
    return [
        _prompt_rollouts(item.prompt, [item.multi, *item.anchors, *item.extras, *groups[item.prompt.prompt_id]])
        for item in readable
    ]


def _groups(
    requests: Sequence[RolloutRequest], scored: Iterable[ScoredSample], unreadable: Collection[str]
) -> dict[str, list[RolloutGroup]]:
    """Prompt id -> its groups in the order of the requests."""
    rollouts: list[dict[int, Rollout]] = [{} for _ in requests]
    for item in scored:
        request, k = requests[item.sample.request], item.sample.index
        if k in rollouts[item.sample.request]:
            raise ValueError(f"sample {k} of {_name(request)} came twice")
        extra = None if request.extra is None else request.extra.name
        rollouts[item.sample.request][k] = Rollout(
            request.prompt_id, request.view, k, item.text, item.sample.completion, item.reward, extra
        )
    groups: dict[str, list[RolloutGroup]] = defaultdict(list)
    for request, by_index in zip(requests, rollouts, strict=True):
        if request.prompt_id in unreadable:
            continue
        if sorted(by_index) != list(range(request.num_samples)):
            raise ValueError(f"samples {sorted(by_index)} of {request.num_samples} for {_name(request)}")
        members = tuple(by_index[k] for k in range(request.num_samples))
        groups[request.prompt_id].append(RolloutGroup(request, members))
    return groups


def _prompt_rollouts(prompt: Prompt, groups: Sequence[RolloutGroup]) -> PromptRollouts:
    requests = [group.request for group in groups]
    if len({request.key for request in requests}) != len(requests):
        raise ValueError(f"prompt {prompt.prompt_id} has two requests of the same view and name")
    views = {group.request.view: group for group in groups if group.request.extra is None}
    if None not in views:
        raise ValueError(f"prompt {prompt.prompt_id} has no multi rollouts")
    anchors = tuple(group for view, group in views.items() if view is not None)
    extras = tuple(group for group in groups if group.request.extra is not None)
    return PromptRollouts(prompt, views[None], anchors, extras)


def _name(request: RolloutRequest) -> str:
    name = f"prompt {request.prompt_id}, view {request.view}"
    return name if request.extra is None else f"{name}, extra request {request.extra.name}"

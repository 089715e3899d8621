"""Control experiments: anchors that come from another prompt of the round (`anchor.shuffle`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from random import Random
from typing import Literal

from mars.types import PromptRollouts, RolloutGroup, View

Shuffle = Literal["reward", "both"]


@dataclass(frozen=True)
class Shuffled:
    """rollouts: the prompts with others' anchors. unshuffled: number of prompts with a view that no other prompt
    has."""

    rollouts: list[PromptRollouts]
    unshuffled: int


def with_shuffled_anchors(
    items: Sequence[PromptRollouts], shuffle: Shuffle, guided: bool, run_seed: int, step: int, round: int
) -> Shuffled:
    """In each prompt's pool, replace the anchors, or only their rewards, by those of another prompt. If `guided`,
    replace instead, in the same way, the anchor responses that may become guests (`with_candidates`).

    `PromptRollouts.anchors` still has the prompt's own anchors, so the metrics that are computed from it do not change.

    "reward": each response gets the reward, with all penalties, of another prompt's response to the same view.
    "both": the responses come from the other prompt too.

    The prompts are put in a random order, which depends only on (run_seed, step, round) and their ids. For each anchor
    view, a prompt takes the group of the next prompt that has the view, never its own. A view that no other prompt of
    the round has is left out of the pool.
    """
    order = sorted(items, key=lambda item: item.prompt.prompt_id)
    key = blake2b(repr(("shuffle", run_seed, step, round)).encode(), digest_size=8).digest()
    Random(int.from_bytes(key, "big")).shuffle(order)
    sources: dict[tuple[str, View], RolloutGroup] = {}
    alone: set[str] = set()
    by_view: dict[View, list[RolloutGroup]] = {}
    for item in order:
        for group in _of_views(item, guided):
            by_view.setdefault(group.request.view, []).append(group)
    for view, having in by_view.items():
        if len(having) == 1:
            alone.add(having[0].request.prompt_id)
            continue
        for own, other in zip(having, [*having[1:], having[0]], strict=True):
            sources[own.request.prompt_id, view] = other

    def shuffled(groups: Iterable[RolloutGroup]) -> tuple[RolloutGroup, ...]:
        pairs = ((group, sources.get((group.request.prompt_id, group.request.view))) for group in groups)
        return tuple(_taken(group, source, shuffle) for group, source in pairs if source is not None)

    def replaced(item: PromptRollouts) -> PromptRollouts:
        found = shuffled(_of_views(item, guided))
        if not guided:
            return replace(item, other_pool=found)
        return replace(item, extras=(*(group for group in item.extras if not group.is_copy), *found))

    return Shuffled([replaced(item) for item in items], len(alone))


def _of_views(item: PromptRollouts, guided: bool) -> list[RolloutGroup]:
    """The groups to shuffle. Groups without rollouts are left out."""
    groups = (group for group in item.extras if group.is_copy) if guided else item.anchors
    return [group for group in groups if group.rollouts]


def _taken(own: RolloutGroup, source: RolloutGroup, shuffle: Shuffle) -> RolloutGroup:
    """The group `own` with the rewards or rollouts of `source`. If `source` has too few rewards, they are repeated."""
    if shuffle == "reward":
        rewards = [rollout.reward for rollout in source.rollouts]
        given = (rewards[k % len(rewards)] for k in range(len(own.rollouts)))
        rollouts = tuple(replace(rollout, reward=reward) for rollout, reward in zip(own.rollouts, given, strict=True))
        return replace(own, rollouts=rollouts)
    taken = tuple(replace(rollout, prompt_id=own.request.prompt_id) for rollout in source.rollouts)
    return replace(own, request=replace(own.request, num_samples=len(taken)), rollouts=taken)

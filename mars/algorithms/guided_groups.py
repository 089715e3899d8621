"""Guided groups: anchor rollouts that beat their prompt's multi rollouts are trained on with the multi prompt.

With r the rewards of the valid multi rollouts of a prompt and r'_k those of its valid anchor rollouts:

    S = { k : r'_k > mean(r) and `GuestFilter` accepts k },   U = r and r'_S
    A = (x - mean(U)) / (std(U) + epsilon), for each reward x in U

The members of S are guests. They are in the pool U and in the loss, which uses the log-probs of their tokens after the
multi prompt. The other anchors leave the pool. So without guests the advantages are bit for bit those of the multi
rollouts alone. The method is biased: a guest was not sampled from the policy with the multi prompt, and only good
responses become guests (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from mars.algorithms.prompt_factors import RIGHT_FROM, is_right
from mars.algorithms.tolerance import SCORE_TOLERANCE
from mars.extra_facts import ExtraFacts
from mars.types import PromptRollouts, Rollout, RolloutGroup

GUIDE = "(guide)"
"""Name of the groups of guests. No request of a recipe can have it."""

GuestFilter = Callable[[PromptRollouts, RolloutGroup, Rollout], bool]
"""(prompt with its groups, anchor group, rollout of it) -> whether the response makes sense for the multi prompt."""


@dataclass(frozen=True)
class Guided:
    """rollouts: the prompts with their guests. refused: number of anchor responses that the filter rejected, although
    their reward is above the mean of the multi rewards."""

    rollouts: list[PromptRollouts]
    refused: int


def with_candidates(items: Sequence[PromptRollouts]) -> list[PromptRollouts]:
    """The prompts with all their valid anchor rollouts as candidates for guests, one group for each anchor view.

    If a KL term is added to the rewards, a candidate's KL is computed with the multi prompt in front of its tokens.
    """

    def candidates(group: RolloutGroup) -> RolloutGroup:
        valid = group.valid
        extra = ExtraFacts(GUIDE, "guest", truth=None, bounded=True, of_anchor=True)
        request = replace(group.request, num_samples=len(valid), extra=extra)
        return RolloutGroup(request, tuple(replace(rollout, extra=GUIDE) for rollout in valid))

    return [
        replace(item, extras=(*item.extras, *(candidates(group) for group in item.anchors if group.valid)))
        for item in items
    ]


def with_guests(items: Sequence[PromptRollouts], is_allowed: GuestFilter) -> Guided:
    """Keep as guests the candidates that `is_allowed` accepts and whose reward is more than SCORE_TOLERANCE above the
    mean of the valid multi rewards. Without a valid multi reward there is no guest.

    Example: multi rewards 0, 0, 0, 1 (mean 0.25), anchors 1 and 0: the first is a guest. U = 0, 0, 0, 1, 1.
    """
    refused = 0

    def chosen(item: PromptRollouts, group: RolloutGroup, least: float) -> RolloutGroup | None:
        nonlocal refused
        above = [rollout for rollout in group.valid if rollout.reward.score > least]
        guests = tuple(rollout for rollout in above if is_allowed(item, group, rollout))
        refused += len(above) - len(guests)
        request = replace(group.request, num_samples=len(guests))
        return replace(group, request=request, rollouts=guests) if guests else None

    def guided(item: PromptRollouts) -> PromptRollouts:
        rewards = [rollout.reward.score for rollout in item.multi.valid]
        least = fmean(rewards) + SCORE_TOLERANCE if rewards else float("inf")
        found = (chosen(item, group, least) if group.is_copy else group for group in item.extras)
        return replace(item, extras=tuple(group for group in found if group is not None), other_pool=())

    return Guided([guided(item) for item in items], refused)


def guests(item: PromptRollouts) -> tuple[Rollout, ...]:
    """The guests of `anchor.guide`, without the guests of a recipe."""
    return tuple(rollout for group in item.extras if group.is_copy for rollout in group.valid)


def guide_metrics(prompts: Sequence[PromptRollouts], refused: int, own: bool = True) -> dict[str, float]:
    """Metrics of the guests of a step, over all prompts that were sampled in it.

    mars/guide/guests        number of guests
    mars/guide/refused       number of responses that `GuestFilter` rejected, although their reward is above the mean of
                             the multi rewards
    mars/guide/frac_groups   share of prompts with a guest
    mars/guide/rescued       of the prompts with valid but no right multi responses, the share that has a right guest

    A response is right from an accuracy of `RIGHT_FROM` on. A guest is right by its own accuracy, even if
    `anchor.shuffle=reward` gave it the reward of another response. own: False with
    `anchor.shuffle=both`, where a prompt's guests are responses to another prompt. They were not scored as answers to
    this one, so `rescued` is left out. A share of no prompts is left out.
    """
    of_prompts = [guests(item) for item in prompts]
    metrics = {"mars/guide/guests": float(sum(map(len, of_prompts))), "mars/guide/refused": float(refused)}
    if prompts:
        metrics["mars/guide/frac_groups"] = fmean(bool(some) for some in of_prompts)
    rescued = [
        any(is_right(guest, RIGHT_FROM) for guest in _as_scored(item))
        for item in prompts
        if item.multi.valid and not any(is_right(rollout, RIGHT_FROM) for rollout in item.multi.valid)
    ]
    if rescued and own:
        metrics["mars/guide/rescued"] = fmean(rescued)
    return metrics


def _as_scored(item: PromptRollouts) -> list[Rollout]:
    """The anchor rollouts that became guests, with the rewards that they were scored with."""
    chosen = {(guest.view, guest.index) for guest in guests(item)}
    return [rollout for group in item.anchors for rollout in group.valid if (rollout.view, rollout.index) in chosen]

"""Observe-R1: a response describes the image before thinking; short right responses and half-solved prompts count more.

reward.function:  recipe/observe_r1/functions.py:score
recipe.shaping:   recipe/observe_r1/functions.py:Concise
recipe.advantage: recipe/observe_r1/functions.py:UncertaintyWeight
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mars.algorithms.advantages import Advantages
from mars.algorithms.prompt_factors import is_right, right_share, scaled
from mars.hooks.contract import StepFacts
from mars.rewards.parsing import has_visible, parse_response, read_blocks, read_each
from mars.rewards.vqa import answer_accuracy, check_truth
from mars.types import PromptRollouts, RewardInput, RewardResult

TAGS = ("observe", "think", "answer")


@dataclass(frozen=True)
class Settings:
    """bonus: for the shortest right response of a group, if it has more than min_tokens tokens.

    sigma: the weight of a prompt whose responses are right half of the time. right_from: accuracy from which a response
    is right.
    """

    bonus: float
    min_tokens: int
    sigma: float
    right_from: float


def score(item: RewardInput) -> RewardResult:
    """accuracy + 0.5 format. format: 1 if `has_form`, else 0. Raises DataError for a malformed truth."""
    accuracy = answer_accuracy(item, parse_response(item.response).answer)
    form = float(has_form(item.response))
    return RewardResult(accuracy + 0.5 * form, accuracy, {"accuracy": accuracy, "format": form})


check_score = check_truth


def has_form(text: str) -> bool:
    """Whether a text has one <observe>, one <think> and one <answer>, none of them empty, in the right order: observe
    right before think or within it, and answer right after think. Text may stand before the first and after the last.

    >>> has_form("<observe>a car</observe> <think>so</think><answer>3</answer>")
    True
    >>> has_form("<think>look: <observe>a car</observe> so</think><answer>3</answer>")
    True
    >>> has_form("<think>so</think><answer>3</answer>")
    False
    """
    if any(text.count(mark) != 1 for tag in TAGS for mark in (f"<{tag}>", f"</{tag}>")):
        return False
    start, end = min(text.index("<observe>"), text.index("<think>")), text.index("</answer>") + len("</answer>")
    blocks = read_blocks(text[start:end], TAGS)
    if blocks is None:
        blocks = read_blocks(text[start:end], ("think", "answer"))
        within = [] if blocks is None else read_each(blocks[0], "observe")
        blocks = (*within, *blocks) if blocks and within else ("",)
    return all(map(has_visible, blocks))


class Concise:
    """The bonus for the shortest right response of a group."""

    ramps = ("bonus", "min_tokens")
    part, on = "concise", "multi"

    def __call__(self, item: PromptRollouts, facts: StepFacts) -> Sequence[float]:
        rollouts = [rollout for group in item.multi_groups for rollout in group.rollouts]
        right_from = facts.settings.right_from
        right = [(len(r.completion.token_ids), place) for place, r in enumerate(rollouts) if is_right(r, right_from)]
        amounts = [0.0] * len(rollouts)
        if right and min(right)[0] > facts.settings.min_tokens:
            amounts[min(right)[1]] = facts.settings.bonus
        return amounts


def weight(share: float, sigma: float) -> float:
    """4 sigma d (1 - d) for a share d of right responses.

    >>> [weight(share, 1.5) for share in (0.0, 0.25, 0.5, 1.0)]
    [0.0, 1.125, 1.5, 0.0]
    """
    return 4 * sigma * share * (1 - share)


class UncertaintyWeight:
    """Multiplies a prompt's advantages by weight(d, sigma), with d the share of its multi responses that are right."""

    ramps = ("sigma",)

    def __call__(self, base: Advantages, kept: Sequence[PromptRollouts], facts: StepFacts) -> Advantages:
        shares = [right_share(item, facts.settings.right_from) or 0.0 for item in kept]
        return scaled(base, kept, [weight(share, facts.settings.sigma) for share in shares])

    def state(self) -> Mapping[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass

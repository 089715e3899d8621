"""ViSurf: the true answer joins the responses to a prompt as long as none of them scores as high.

reward.function:  recipe/visurf/functions.py:score
recipe.requests:  recipe/visurf/functions.py:TrueAnswer    the true answer as one more response
recipe.advantage: recipe/visurf/functions.py:NeverAgainst  no training that would lower the probability of the true
answer

A row's column `response`, if it has one, is the true answer with its reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mars.algorithms.advantages import Advantages
from mars.hooks.contract import StepFacts
from mars.hooks.requests import Injected
from mars.rewards.parsing import parse_response
from mars.rewards.vqa import check_truth, perfect_answer, score_vqa
from mars.types import Prompt, PromptRollouts, RewardInput, RewardResult

NAME = "true_answer"
NEEDS = {"algorithm.part_weights": {}}  # part by part, the true answer would be punished for having no format


@dataclass(frozen=True)
class Settings:
    """in_pool: whether the score of the true answer counts in the advantages of the responses."""

    in_pool: bool


def score(item: RewardInput) -> RewardResult:
    """As the reward vqa: accuracy (0 or 1) + format (0 to 0.5). The true answer gets 0 for format.

    Raises DataError for a malformed truth.
    """
    found = score_vqa(item)
    if item.extra != NAME:
        return found
    return RewardResult(found.accuracy, found.accuracy, {"format": 0.0, "accuracy": found.accuracy})


check_score = check_truth


def text_of(prompt: Prompt) -> str:
    """The row's `response`. Without one, the truth in answer tags.

    If the truth has several right choices, only the first is in the tags.
    """
    if prompt.response is not None:
        return prompt.response
    asked = RewardInput(prompt.data_source, None, "", prompt.truth, None, None, prompt.extra_info)
    return f"<answer>{parse_response(perfect_answer(asked)).answer}</answer>"


def worth(prompt: Prompt) -> float:
    """The score of the true answer: 1; 0 if the reward does not read it as right. Raises as `score`."""
    text = text_of(prompt)
    return score(RewardInput(prompt.data_source, None, text, prompt.truth, None, None, prompt.extra_info, NAME)).score


class TrueAnswer:
    """Adds the true answer to a prompt's responses, unless a valid multi response has at least its score, or no multi
    response is valid."""

    def before(self, prompt: Prompt, facts: StepFacts) -> Sequence[Injected]:
        return ()

    def after(self, item: PromptRollouts, facts: StepFacts) -> Sequence[Injected]:
        scores = [one.reward.score for one in item.multi.valid]
        if not scores or max(scores) >= worth(item.prompt):
            return ()
        return (Injected(NAME, text_of(item.prompt), score=None, in_pool=facts.settings.in_pool),)


class NeverAgainst:
    """Weight 0 for a true answer whose advantage is not above 0, or whose reward a valid multi response has or exceeds.

    `TrueAnswer` adds no answer whose score a valid multi response reaches. So this only happens with penalties, with
    another reward than `score`, or because of the rewards of anchors.
    """

    def __call__(self, base: Advantages, kept: Sequence[PromptRollouts], facts: StepFacts) -> Advantages:
        true, reached = [], []
        for item in kept:
            best = max((one.reward.score for one in item.multi.valid), default=-torch.inf)
            true += [one.extra == NAME for one in item.trained]
            reached += [one.reward.score <= best for one in item.trained]
        true, reached = (torch.tensor(rows, dtype=torch.bool) for rows in (true, reached))
        return base.without(true & (reached | (base.values <= 0)))

    def state(self) -> Mapping[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass

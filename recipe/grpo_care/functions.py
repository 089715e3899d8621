"""GRPO-CARE: a right answer earns more if a slow copy of the policy finds it likely after the response's reasoning.

reward.function: recipe/grpo_care/functions.py:score
recipe.shaping:  recipe/grpo_care/functions.py:Consistency
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from mars.algorithms.scoring import ScoringSpec
from mars.hooks.contract import Signal, StepFacts
from mars.rewards.parsing import has_visible, read_blocks, read_each
from mars.rewards.vqa import answer_accuracy, check_truth
from mars.types import PromptRollouts, RewardInput, RewardResult

CONFIDENCE = Signal(ScoringSpec("confidence", "mean", model="reference"), tag="answer")
_ROUNDING = 1e-9  # the mean of equal confidences may differ from them by so much


@dataclass(frozen=True)
class Settings:
    """weight: of the bonus. min_accuracy: only more accurate responses can get one. max_confidence: upper limit of a
    confidence. margin: how far a confidence may be below the mean confidence of the accurate responses."""

    weight: float
    min_accuracy: float
    max_confidence: float
    margin: float

    def __post_init__(self) -> None:
        if not (0 <= self.min_accuracy <= 1 and 0 < self.max_confidence <= 1 and self.margin >= 0):
            raise ValueError("min_accuracy must be in 0..1, max_confidence above 0 and at most 1, margin at least 0")


def score(item: RewardInput) -> RewardResult:
    """accuracy + format, each 0 or 1. The answer is the last block <answer>. format: a think and an answer, each with
    text, and nothing else.

    Raises DataError for a malformed truth.
    """
    answers = read_each(item.response, "answer")
    accuracy = answer_accuracy(item, answers[-1] if answers else None)
    blocks = read_blocks(item.response, ("think", "answer"))
    form = float(blocks is not None and all(map(has_visible, blocks)))
    return RewardResult(accuracy + form, accuracy, {"accuracy": accuracy, "format": form})


check_score = check_truth


def bonuses(accuracies: Sequence[float], logprobs: Sequence[float], settings: Settings) -> list[float]:
    """weight * accuracy for accurate responses that the reference model is confident of; 0 for the others of the group.

    logprobs: the reference model's mean log-prob of each answer's tokens; NaN without an answer.
    confidence_i = min(exp(logprob_i), max_confidence). Accurate: accuracy above min_accuracy, and at least the group's
    mean. An accurate response gets the bonus if confidence_i >= c - margin, with c the mean confidence of the accurate
    responses.
    """
    if not accuracies:
        return []
    lowest = fmean(accuracies) - _ROUNDING
    confidences = {
        i: min(math.exp(logprob), settings.max_confidence)
        for i, (accuracy, logprob) in enumerate(zip(accuracies, logprobs, strict=True))
        if accuracy > settings.min_accuracy and accuracy >= lowest and not math.isnan(logprob)
    }
    enough = fmean(confidences.values()) - settings.margin - _ROUNDING if confidences else 0.0
    return [
        settings.weight * accuracy if confidences.get(i, -1.0) >= enough else 0.0
        for i, accuracy in enumerate(accuracies)
    ]


class Consistency:
    """The `bonuses` of the valid multi responses and guests of a prompt; 0 for invalid ones."""

    ramps = ("weight", "min_accuracy", "max_confidence", "margin")
    part, on, signals = "consistency", "multi", (CONFIDENCE,)

    def __call__(self, item: PromptRollouts, facts: StepFacts) -> Sequence[float]:
        rollouts = [rollout for group in item.multi_groups for rollout in group.rollouts]
        valid = [i for i, rollout in enumerate(rollouts) if rollout.valid]
        logprobs = facts.signals[CONFIDENCE.spec.name]
        given = bonuses([rollouts[i].reward.accuracy for i in valid], [logprobs[i] for i in valid], facts.settings)
        found = dict(zip(valid, given, strict=True))
        return [found.get(i, 0.0) for i in range(len(rollouts))]

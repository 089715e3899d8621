"""VL-Cogito: advantages weighted by a prompt's difficulty, in three stages. In the last one, wrong responses
that are too short or too long lose score.

reward.function:  recipe/vl_cogito/functions.py:score             stages 1 and 2
reward.function:  recipe/vl_cogito/functions.py:score_last_stage  stage 3: less for wrong answers that repeat themselves
recipe.advantage: recipe/vl_cogito/functions.py:DifficultyWeight
recipe.shaping:   recipe/vl_cogito/functions.py:LengthOfWrong     stage 3
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi
from statistics import fmean
from typing import Any, Literal

from mars.algorithms.advantages import Advantages
from mars.algorithms.prompt_factors import is_right, right_share, scaled
from mars.hooks.contract import StepFacts
from mars.rewards.parsing import parse_response, read_blocks
from mars.rewards.text_metrics import repetition
from mars.rewards.vqa import answer_accuracy, check_truth
from mars.types import PromptRollouts, RewardInput, RewardResult

NGRAM = 20
LONGEST_LOSS = 0.5
WEIGHT_OF_TARGET = 0.5


@dataclass(frozen=True)
class Settings:
    """curve: the weight of a prompt by its share of right responses, named as in the original. all_wrong: the weight
    that curve s_1 gives to a prompt without a right response.

    target_tokens, limit_tokens: a wrong response to a prompt without a right one should have target_tokens tokens or
    more, but fewer than limit_tokens. right_from: accuracy from which a response is right.
    """

    curve: Literal["s_3", "s_2", "s_1", "h_1", "h_2", "h_3"]
    all_wrong: float
    target_tokens: int
    limit_tokens: int
    right_from: float

    def __post_init__(self) -> None:
        if not 0 < self.target_tokens <= self.limit_tokens:
            raise ValueError("want 0 < target_tokens <= limit_tokens")


def score(item: RewardInput) -> RewardResult:
    """accuracy + 0.5 format. format: 1 for a think, then an answer, and nothing else. Raises DataError for a malformed
    truth."""
    accuracy = answer_accuracy(item, parse_response(item.response).answer)
    form = float(read_blocks(item.response, ("think", "answer")) is not None)
    return RewardResult(accuracy + 0.5 * form, accuracy, {"accuracy": accuracy, "format": form})


def score_last_stage(item: RewardInput) -> RewardResult:
    """`score`; if the answer is wrong, minus half the share of repeated 20-grams of words in the response."""
    plain = score(item)
    words = item.response.lower().split()
    part = 0.0 if plain.accuracy else -0.5 * repetition(words, NGRAM)
    return RewardResult(plain.score + part, plain.accuracy, {**plain.parts, "repetition": part})


check_score = check_score_last_stage = check_truth


def weight(share: float, settings: Settings) -> float:
    """The factor of the advantages of a prompt with this share of right responses: 0 to 1. Only curve s_1 can give
    more, by `all_wrong`.

    >>> weight(0.25, Settings("s_2", 0.25, 750, 4096, 0.5)) == cos(pi * (0.25 - 0.5))
    True
    """
    match settings.curve:
        case "s_3":
            return 0.0 if share == 0 else 1.0 if share > 0.5 else cos(pi * (share - 0.5))
        case "s_2":
            return 0.0 if share == 0 else cos(pi * (share - 0.5))
        case "s_1":
            return settings.all_wrong if share == 0 else 1.0 if share <= 0.5 else cos(pi * (share - 0.5))
        case "h_1":
            return float(0 < share <= 0.5)
        case "h_2":
            return float(0.25 <= share <= 0.75)
        case "h_3":
            return float(share >= 0.5)


class DifficultyWeight:
    """Multiplies a prompt's advantages by `weight(share)`, with the share of its multi rollouts that are right."""

    def __call__(self, base: Advantages, kept: Sequence[PromptRollouts], facts: StepFacts) -> Advantages:
        shares = [right_share(item, facts.settings.right_from) or 0.0 for item in kept]
        return scaled(base, kept, [weight(share, facts.settings) for share in shares])

    def state(self) -> Mapping[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass


class LengthOfWrong:
    """Up to half a point less for a wrong response whose length differs from the mean length of the right ones.

    The right ones are those among the prompt's multi responses and guests. If there are none, the length is compared
    with the settings' lengths, and up to a quarter is lost.
    """

    ramps = ("target_tokens", "limit_tokens")
    part, on = "length", "multi"

    def __call__(self, item: PromptRollouts, facts: StepFacts) -> Sequence[float]:
        rollouts = [rollout for group in item.multi_groups for rollout in group.rollouts]
        lengths = [len(rollout.completion.token_ids) for rollout in rollouts]
        right_from = facts.settings.right_from
        right = [length for length, rollout in zip(lengths, rollouts, strict=True) if is_right(rollout, right_from)]
        mean = fmean(right) if right else None
        return [
            0.0 if is_right(rollout, right_from) else length_term(length, mean, facts.settings)
            for length, rollout in zip(lengths, rollouts, strict=True)
        ]


def length_term(tokens: int, right_tokens: float | None, settings: Settings) -> float:
    """The amount for a wrong response of this length. right_tokens: mean length of its group's right ones, or None.

    >>> settings = Settings("s_1", 0.25, 750, 4096, 0.5)
    >>> [length_term(tokens, 100.0, settings) for tokens in (0, 100, 200, 900)]
    [-0.5, 0.0, -0.5, -0.5]
    >>> [length_term(tokens, None, settings) for tokens in (0, 750, 4095, 4096)]
    [-0.25, 0.0, 0.0, -0.25]
    """
    if right_tokens is not None:
        return _cosine(tokens / right_tokens) if tokens < 2 * right_tokens else -LONGEST_LOSS
    if tokens >= settings.limit_tokens:
        return -WEIGHT_OF_TARGET * LONGEST_LOSS
    return WEIGHT_OF_TARGET * _cosine(min(tokens / settings.target_tokens, 1.0))


def _cosine(progress: float) -> float:
    """-LONGEST_LOSS at 0, 0 at 1, and -LONGEST_LOSS again at 2."""
    return -LONGEST_LOSS / 2 * (1 + cos(pi * progress))

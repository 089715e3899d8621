"""The reward of SRPO: a first answer, a reflection on it, and a second answer.

reward.function: recipe/srpo/functions.py:score             rewards and weights of the authors' OpenRLHF version
reward.function: recipe/srpo/functions.py:score_as_in_verl  those of their verl version
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

from mars.rewards.parsing import has_visible, read_blocks, read_each
from mars.rewards.vqa import answer_accuracy, check_truth
from mars.types import RewardInput, RewardResult

TAGS = ("think", "answer", "reflection", "think", "answer")


@dataclass(frozen=True)
class Settings:
    """Rewards for right answers, weights of the parts, and two lengths.

    kept: reward if both answers are right. corrected: if only the second is. lost: if only the first is. single: if
    there is one answer, and it is right.
    target, limit: T and T_max of `length_reward`, as multiples of the first attempt's length.
    """

    kept: float
    corrected: float
    lost: float
    single: float
    accuracy_weight: float
    format_weight: float
    length_weight: float
    target: float
    limit: float


OPENRLHF = Settings(0.75, 1.0, 0.25, 0.5, 1.0, 0.5, 0.1, 2.0, 2.5)
VERL = Settings(0.75, 1.0, -0.25, 0.75, 0.5, 0.25, 0.1, 2.0, 2.5)


def score(item: RewardInput) -> RewardResult:
    """`scored` with the OpenRLHF version's rewards and weights (OPENRLHF). Raises DataError for a malformed truth."""
    return scored(item, OPENRLHF)


def score_as_in_verl(item: RewardInput) -> RewardResult:
    """`scored` with the verl version's rewards and weights (VERL). Raises DataError for a malformed truth."""
    return scored(item, VERL)


def scored(item: RewardInput, settings: Settings) -> RewardResult:
    """Weighted sum of the parts reflection (`reflection_reward`), format and length. accuracy: of the last answer."""
    answer_accuracy(item, None)  # a malformed truth is an error, with answers or without
    right = [bool(answer_accuracy(item, answer)) for answer in read_each(item.response, "answer")]
    blocks = read_blocks(item.response, TAGS) or ()
    form = float(bool(blocks) and all(map(has_visible, blocks)))
    words = [len(block.split()) for block in blocks]
    length = form * length_reward(sum(words), sum(words[:2]), settings)
    parts = {
        "reflection": reflection_reward(right, settings),
        "format": form,
        "length": length,
        "first_right": float(bool(right) and right[0]),
    }
    total = settings.accuracy_weight * parts["reflection"]
    total += settings.format_weight * parts["format"] + settings.length_weight * length
    return RewardResult(total, float(bool(right) and right[-1]), parts)


check_score = check_score_as_in_verl = check_truth


def reflection_reward(right: list[bool], settings: Settings) -> float:
    """The reward of one or two answers; 0 for none and for more than two.

    >>> [reflection_reward(right, OPENRLHF) for right in ([True, True], [False, True], [True, False], [True], [])]
    [0.75, 1.0, 0.25, 0.5, 0.0]
    """
    match right:
        case [True, True]:
            return settings.kept
        case [False, True]:
            return settings.corrected
        case [True, False]:
            return settings.lost
        case [True]:
            return settings.single
    return 0.0


def length_reward(words: int, first_words: int, settings: Settings) -> float:
    """exp(-((L - T) / (T_max - T))^2), in (0, 1]: 1 at the target length T. 0 if the first attempt has no words.

    words: L, of the whole response. first_words: of the first think and answer; T and T_max are multiples of this.

    >>> length_reward(20, 10, OPENRLHF), round(length_reward(25, 10, OPENRLHF), 6)  # exp(-1)
    (1.0, 0.367879)
    """
    if not first_words:
        return 0.0
    target, limit = settings.target * first_words, settings.limit * first_words
    return exp(-(((words - target) / (limit - target)) ** 2))

"""The hard reward of Vision-R1: 1 if both the form and the answer are right, otherwise 0.

reward.function: recipe/vision_r1_ptst/functions.py:score
"""

from __future__ import annotations

from mars.rewards.parsing import has_visible, read_blocks
from mars.rewards.vqa import answer_accuracy, check_truth
from mars.types import RewardInput, RewardResult


def score(item: RewardInput) -> RewardResult:
    """score = format * accuracy, 0 or 1. format: a think and an answer, each with text, and nothing else. A response
    that is not just these two blocks has accuracy 0.

    Raises DataError for a malformed truth.
    """
    blocks = read_blocks(item.response, ("think", "answer"))
    form = float(blocks is not None and all(map(has_visible, blocks)))
    accuracy = answer_accuracy(item, None if blocks is None else blocks[1])
    return RewardResult(form * accuracy, accuracy, {"format": form, "accuracy": accuracy})


check_score = check_truth

"""The reward of this project: how good one response is. docs/rewards.md of mars describes `RewardInput`."""

from __future__ import annotations

from mars.rewards.parsing import parse_response
from mars.types import RewardInput, RewardResult

LONG = 400  # characters


def score(item: RewardInput) -> RewardResult:
    """1 for the right answer, 0.1 each for a <think> and an <answer> block, and up to 0.1 for being short.

    Case and the spaces around an answer do not count. `parts` become the metrics reward/<part>/mean.
    """
    response = parse_response(item.response)
    right = float((response.answer or "").strip().lower() == item.truth.lower())
    form = 0.1 * (response.think is not None) + 0.1 * (response.answer is not None)
    short = 0.1 * (1 - min(len(item.response), LONG) / LONG)
    return RewardResult(right + form + short, right, {"form": form, "short": short})


def check_score(truth: str, extra_info: object, truth_size: object) -> str | None:
    """What is wrong with the truth of a row; None if nothing. It is called for every row before a run."""
    return None if truth.strip() else "the answer is empty; write what a right response says"

"""What evaluation reports of an answer to a built-in reward beside its accuracy: the other scorer, and readability."""

from __future__ import annotations

from dataclasses import dataclass

from mars.rewards.functions import is_built_in
from mars.rewards.grounding import compat_reward, read_truth
from mars.rewards.parsing import box_entries, load_json, parse_response
from mars.types import RewardInput, RewardResult


@dataclass(frozen=True)
class CompatScore:
    """compat: the public code's reward of the answer, without format points, in [0, highest] (docs/rewards.md).

    highest: the largest `compat` that the truth allows: 1 + 0.3 ln(true boxes) for grounding, 1 for VQA.
    readable: whether there is an answer to compare at all, see `is_readable`.
    """

    compat: float
    highest: float
    readable: bool


def verdict(function: str | None, item: RewardInput, result: RewardResult) -> CompatScore | None:
    """The verdict on `item`, which reward `function` gave `result`; None for a user's own function and for None.

    Example: two true boxes, both found exactly: compat = highest = 1 + 0.3 ln 2, while accuracy is 1.
    """
    if function is None or not is_built_in(function):
        return None
    readable = is_readable(function, item.response)
    if function == "vqa":
        return CompatScore(result.accuracy, 1.0, readable)
    num_true = max(len(read_truth(item.truth)), 1)
    highest = compat_reward([1.0] * num_true, num_predicted=num_true, num_true=num_true)
    compat = 0.0 if result.failed is not None else result.parts["compat"]  # a failed result has no parts
    return CompatScore(compat, highest, readable)


def is_readable(function: str, response: str) -> bool:
    """Whether a response holds what reward `function` compares. Unreadable ones are wrong, and counted.

    vqa: exactly one answer with a visible character. grounding: exactly one answer, in it one JSON list (or one box);
    its boxes may still be malformed, too many or wrong. Raises nothing.
    """
    parsed = parse_response(response)
    if function == "vqa":
        return any(char.isprintable() and not char.isspace() for char in parsed.answer or "")
    if parsed.boxes_text is None:
        return False
    try:
        box_entries(load_json(parsed.boxes_text))
    except (ValueError, RecursionError):
        return False
    return True
